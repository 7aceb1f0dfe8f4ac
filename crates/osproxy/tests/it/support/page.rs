use std::path::{Path, PathBuf};

/// A fenced block of a page.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    /// The text after the opening fence, on the same line.
    pub language: String,
    pub text: String,
}

/// A page of the documentation.
pub struct Page {
    /// The path relative to the repository.
    pub path: String,
    pub text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Page {
    pub fn read(path: &str) -> Self {
        let text =
            std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self { path: path.to_owned(), text }
    }

    /// All pages, sorted by path.
    pub fn all() -> Vec<Self> {
        let mut paths =
            vec!["README.md".to_owned(), "README.zh-CN.md".to_owned(), "CONTRIBUTING.md".to_owned()];
        let mut folders = vec!["docs".to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(root().join(&folder)).unwrap() {
                let entry = entry.unwrap();
                let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
                if entry.path().is_dir() {
                    folders.push(path);
                } else if entry.path().extension().is_some_and(|extension| extension == "md") {
                    paths.push(path);
                }
            }
        }
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    /// The section below a heading of the second level, as a page.
    pub fn section(&self, heading: &str) -> Self {
        let found = self.text.split_once(&format!("\n## {heading}\n"));
        let (_, section) = found.unwrap_or_else(|| panic!("{} has no section {heading}", self.path));
        Self { path: self.path.clone(), text: section.split("\n## ").next().unwrap().to_owned() }
    }

    /// All blocks, from top to bottom.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for line in self.text.lines() {
            // In a list, a block is indented.
            match (line.trim_start().strip_prefix("```"), open.as_mut()) {
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(language), None) => {
                    open = Some(Block { language: language.to_owned(), text: String::new() });
                }
                (None, Some(block)) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert_eq!(open, None, "a block of {} does not end", self.path);
        blocks
    }

    /// The texts of the blocks in a language, from top to bottom.
    pub fn blocks_in(&self, language: &str) -> Vec<String> {
        let blocks = self.blocks().into_iter().filter(|block| block.language == language);
        let texts: Vec<_> = blocks.map(|block| block.text).collect();
        assert!(!texts.is_empty(), "{} has no blocks in {language}", self.path);
        texts
    }

    /// All blocks in a language as one text.
    pub fn joined_blocks(&self, language: &str) -> String {
        self.blocks_in(language).concat()
    }

    /// The headings, each with its `#` signs.
    pub fn headings(&self) -> Vec<String> {
        let mut is_open = false;
        let mut is_outside = |line: &&str| {
            is_open ^= line.trim_start().starts_with("```");
            !is_open
        };
        let lines = self.text.lines().filter(|line| is_outside(line) && line.starts_with('#'));
        lines.map(str::to_owned).collect()
    }

    /// The targets of all links that are not in blocks.
    pub fn links(&self) -> Vec<String> {
        let text: String = self.text.split("```").step_by(2).collect();
        let ends = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        ends.map(|(target, _)| target.to_owned()).collect()
    }

    /// The only block in a language.
    pub fn only_block(&self, language: &str) -> String {
        let mut texts = self.blocks_in(language);
        assert_eq!(texts.len(), 1, "{} has several blocks in {language}", self.path);
        texts.remove(0)
    }
}

/// Asserts that a test of this name, `file::test`, exists.
pub fn assert_is_a_test(name: &str) {
    let (module, test) = name.rsplit_once("::").unwrap();
    let file = format!("crates/osproxy/tests/it/{}.rs", module.replace("::", "/"));
    let source = std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(source.contains(&format!("fn {test}()")), "the test {name} does not exist");
}
