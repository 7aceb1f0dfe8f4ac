use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use osproxy_core::processing::settings::{
    CommandSettings, ImageSettings, MediaSettings, OnError, ProcessingSettings, ProgramLimits, ScanSettings,
    ScannerAddress, StepKind, StepSettings, TooLarge, TypeSettings, WebhookSettings,
};
use osproxy_meta::ProcessingPolicy;

use super::{
    Config, Secret, secret,
    value::{Findings, choice, section},
};

/// Longest allowed timeout and link lifetime, in seconds.
const MAX_SECONDS: u64 = 24 * 60 * 60;
/// Smallest allowed `max_memory`, in bytes. Less is not enough to start a program.
const MIN_MEMORY: u64 = 64 << 20;
/// Maximum size of what a program prints, in bytes.
const MAX_OUTPUT: u64 = 64 << 10;
/// Maximum size of what ffprobe prints, in bytes.
const MAX_PROBE_OUTPUT: u64 = 1 << 20;

choice! {
    /// The kind of a processing step.
    StepName {
        /// Scans for malware with ClamAV.
        Scan = "scan",
        /// Compares content, name and claimed type; accepts and rejects types.
        Type = "type",
        /// Decodes images: dimensions, orientation, frames.
        Image = "image",
        /// Probes audio and video with ffprobe: duration, codecs, dimensions.
        Media = "media",
        /// Asks an HTTP service.
        Webhook = "webhook",
        /// Runs a program.
        Command = "command",
    }
}

choice! {
    /// What happens to a file about which a step gives no verdict.
    OnErrorChoice {
        /// The file waits.
        Hold = "hold",
        /// The file passes.
        Pass = "pass",
        /// The file is rejected.
        Reject = "reject",
    }
}

choice! {
    /// What happens to a file that a step cannot examine or finds wrong.
    PassOrReject {
        /// The file passes.
        Pass = "pass",
        /// The file is rejected.
        Reject = "reject",
    }
}

choice! {
    /// What happens to an infected file.
    InfectedChoice {
        /// Nobody can read it; its content is kept for the operator.
        Quarantine = "quarantine",
        /// Its content is removed.
        Reject = "reject",
    }
}

section! {
    /// An entry of `processing`: a step that looks at the content of every complete file. The
    /// settings after `on_error` exist only for some kinds of steps.
    StepSection {
        /// Kind of the step.
        step: Option<StepName> = None,
        /// Whether files become readable only when this step has accepted them. Other steps run
        /// after that.
        blocking: bool = true,
        /// MIME types and families of the files that the step is for, such as `image/*`. When
        /// empty, all files for which the step has a use.
        types: Vec<String> = Vec::new(),
        /// Longest time of a run, in seconds. When not set, 120 for `scan`, 60 for `command`, else
        /// 30.
        timeout: Option<u64> as seconds = None,
        /// What happens to a file about which the step gives no verdict: it waits (`hold`), passes
        /// or is rejected. When not set, `pass` for `image` and `media`, else `hold`.
        on_error: Option<OnErrorChoice> = None,
        /// `scan`: address of clamd, `tcp://HOST:PORT` or `unix:/PATH`.
        clamd: Option<String> = None,
        /// `scan`: largest file that is scanned; at most `StreamMaxLength` of clamd. `image`:
        /// largest file that is decoded. In bytes. When not set, 100MiB and 64MiB.
        max_size: Option<u64> as bytes = None,
        /// `scan`: what happens to larger files. When not set, `reject`.
        too_large: Option<PassOrReject> = None,
        /// `scan`: what happens to infected files. When not set, `quarantine`.
        infected: Option<InfectedChoice> = None,
        /// `type`: MIME types and families that are accepted. When empty, all are.
        allow: Vec<String> = Vec::new(),
        /// `type`: MIME types and families that are rejected.
        deny: Vec<String> = Vec::new(),
        /// `type`: what happens to files whose content is of another type than their name or the
        /// client says. With `pass`, the content decides the type. When not set, `pass`.
        mismatch: Option<PassOrReject> = None,
        /// `image`, `media`: what happens to files that are damaged or exceed the limits. When not
        /// set, `pass`.
        damaged: Option<PassOrReject> = None,
        /// `image`: most pixels of a frame. When not set, 50,000,000.
        max_pixels: Option<u64> = None,
        /// `image`: whether to compute a ThumbHash, a preview of about 25 bytes.
        thumbhash: bool = false,
        /// `media`: path of ffprobe. When not set, `/usr/bin/ffprobe`.
        ffprobe: Option<PathBuf> = None,
        /// `media`: bytes at the beginning and at the end of a file that ffprobe sees. When not
        /// set, 8MiB.
        probe_size: Option<u64> as bytes = None,
        /// `webhook`: URL of the service that is asked.
        url: Option<String> = None,
        /// `webhook`: value of the header `Authorization`.
        authorization: Option<Secret> = None,
        /// `webhook`: file with the value, instead of `authorization`.
        authorization_file: Option<PathBuf> = None,
        /// `webhook`: URL at which the service reaches osproxy. When not set, `server.public_url`.
        base_url: Option<String> = None,
        /// `webhook`: lifetime of the link to the content, in seconds. When not set, 600.
        link_lifetime: Option<u64> as seconds = None,
        /// `command`: absolute path of the program, and its arguments.
        command: Vec<String> = Vec::new(),
        /// `command`: files and folders that the program may read, besides programs and libraries of
        /// the system.
        readable: Vec<PathBuf> = Vec::new(),
        /// `image`, `media`, `command`: most memory of a process, in bytes. When not set, 1GiB.
        max_memory: Option<u64> as bytes = None,
        /// `image`, `media`, `command`: whether the service refuses to start where Landlock cannot
        /// restrict the program's access to files. Linux has it since 5.13.
        require_landlock: bool = true,
    }
    ignored []
}

impl StepSection {
    /// The settings that are set and exist only for some kinds of steps, with these kinds.
    fn special(&self) -> Vec<(&'static str, &'static [StepName])> {
        use StepName::{Command, Image, Media, Scan, Type, Webhook};
        let all: [(&str, bool, &[StepName]); 21] = [
            ("clamd", self.clamd.is_some(), &[Scan]),
            ("max_size", self.max_size.is_some(), &[Scan, Image]),
            ("too_large", self.too_large.is_some(), &[Scan]),
            ("infected", self.infected.is_some(), &[Scan]),
            ("allow", !self.allow.is_empty(), &[Type]),
            ("deny", !self.deny.is_empty(), &[Type]),
            ("mismatch", self.mismatch.is_some(), &[Type]),
            ("damaged", self.damaged.is_some(), &[Image, Media]),
            ("max_pixels", self.max_pixels.is_some(), &[Image]),
            ("thumbhash", self.thumbhash, &[Image]),
            ("ffprobe", self.ffprobe.is_some(), &[Media]),
            ("probe_size", self.probe_size.is_some(), &[Media]),
            ("url", self.url.is_some(), &[Webhook]),
            ("authorization", self.authorization.is_some(), &[Webhook]),
            ("authorization_file", self.authorization_file.is_some(), &[Webhook]),
            ("base_url", self.base_url.is_some(), &[Webhook]),
            ("link_lifetime", self.link_lifetime.is_some(), &[Webhook]),
            ("command", !self.command.is_empty(), &[Command]),
            ("readable", !self.readable.is_empty(), &[Command]),
            ("max_memory", self.max_memory.is_some(), &[Image, Media, Command]),
            ("require_landlock", !self.require_landlock, &[Image, Media, Command]),
        ];
        all.into_iter().filter(|(_, is_set, _)| *is_set).map(|(name, _, kinds)| (name, kinds)).collect()
    }

    fn timeout(&self, name: StepName) -> Duration {
        Duration::from_secs(self.timeout.unwrap_or(match name {
            StepName::Scan => 120,
            StepName::Command => 60,
            StepName::Type | StepName::Image | StepName::Media | StepName::Webhook => 30,
        }))
    }

    fn limits(&self, name: StepName) -> ProgramLimits {
        ProgramLimits {
            timeout: self.timeout(name),
            max_memory: self.max_memory.unwrap_or(1 << 30),
            max_output: if name == StepName::Media { MAX_PROBE_OUTPUT } else { MAX_OUTPUT },
            require_landlock: self.require_landlock,
        }
    }

    /// Returns the settings of the step. Fails with the name of a setting and what is wrong with it.
    /// Blocks while it reads a secret and looks for programs.
    fn settings(&self, public_url: Option<&str>) -> Result<StepSettings, (&'static str, String)> {
        let Some(name) = self.step else {
            let names: Vec<_> = StepName::ALL.iter().map(|name| name.as_str()).collect();
            return Err(("step", format!("must be one of {}", names.join(", "))));
        };
        for (setting, kinds) in self.special() {
            if !kinds.contains(&name) {
                let kinds: Vec<_> = kinds.iter().map(|kind| kind.as_str()).collect();
                return Err((
                    setting,
                    format!("is a setting of {}, not of {}", kinds.join(", "), name.as_str()),
                ));
            }
        }
        self.check_ranges()?;
        let limits = self.limits(name);
        let rejects = |choice: Option<PassOrReject>| choice == Some(PassOrReject::Reject);
        let kind = match name {
            StepName::Scan => StepKind::Scan(self.scan(limits.timeout)?),
            StepName::Type => StepKind::Type(TypeSettings {
                allow: self.allow.clone(),
                deny: self.deny.clone(),
                reject_mismatch: rejects(self.mismatch),
            }),
            StepName::Image => StepKind::Image(ImageSettings {
                limits,
                max_size: self.max_size.unwrap_or(64 << 20),
                max_pixels: self.max_pixels.unwrap_or(50_000_000),
                thumbhash: self.thumbhash,
                reject_damaged: rejects(self.damaged),
            }),
            StepName::Media => {
                let ffprobe = self.ffprobe.clone().unwrap_or_else(|| PathBuf::from("/usr/bin/ffprobe"));
                check_program(&ffprobe).map_err(|problem| ("ffprobe", problem))?;
                StepKind::Media(MediaSettings {
                    ffprobe,
                    limits,
                    probe_size: self.probe_size.unwrap_or(8 << 20),
                    reject_damaged: rejects(self.damaged),
                })
            }
            StepName::Webhook => StepKind::Webhook(Box::new(self.webhook(public_url, limits.timeout)?)),
            StepName::Command => StepKind::Command(self.command(limits)?),
        };
        let on_error = self.on_error.unwrap_or(match name {
            StepName::Image | StepName::Media => OnErrorChoice::Pass,
            StepName::Scan | StepName::Type | StepName::Webhook | StepName::Command => OnErrorChoice::Hold,
        });
        Ok(StepSettings {
            blocking: self.blocking,
            types: self.types.clone(),
            // A program is killed at its own, equal limit first.
            timeout: limits.timeout + Duration::from_secs(5),
            on_error: match on_error {
                OnErrorChoice::Hold => OnError::Hold,
                OnErrorChoice::Pass => OnError::Pass,
                OnErrorChoice::Reject => OnError::Reject,
            },
            kind,
        })
    }

    fn check_ranges(&self) -> Result<(), (&'static str, String)> {
        for (name, value) in [("timeout", self.timeout), ("link_lifetime", self.link_lifetime)] {
            if value.is_some_and(|seconds| !(1..=MAX_SECONDS).contains(&seconds)) {
                return Err((name, format!("must be 1 to {MAX_SECONDS} seconds")));
            }
        }
        for (name, value, min) in [
            ("max_size", self.max_size, 1),
            ("max_pixels", self.max_pixels, 1),
            ("probe_size", self.probe_size, 4096),
            ("max_memory", self.max_memory, MIN_MEMORY),
        ] {
            if value.is_some_and(|value| !(min..=1 << 50).contains(&value)) {
                return Err((name, format!("must be at least {min}, and at most 2^50")));
            }
        }
        for (name, patterns) in [("types", &self.types), ("allow", &self.allow), ("deny", &self.deny)] {
            if let Some(wrong) = patterns.iter().find(|pattern| !is_pattern(pattern)) {
                return Err((name, format!("{wrong:?} is no MIME type such as image/png or image/*")));
            }
        }
        Ok(())
    }

    fn scan(&self, timeout: Duration) -> Result<ScanSettings, (&'static str, String)> {
        let address = self.clamd.as_deref().and_then(parse_scanner).ok_or_else(|| {
            (
                "clamd",
                "must be an address such as tcp://127.0.0.1:3310 or unix:/run/clamav/clamd.ctl".to_owned(),
            )
        })?;
        Ok(ScanSettings {
            address,
            timeout,
            max_size: self.max_size.unwrap_or(100 << 20),
            too_large: match self.too_large {
                Some(PassOrReject::Pass) => TooLarge::Pass,
                Some(PassOrReject::Reject) | None => TooLarge::Reject,
            },
            reject_infected: self.infected == Some(InfectedChoice::Reject),
        })
    }

    fn webhook(
        &self,
        public_url: Option<&str>,
        timeout: Duration,
    ) -> Result<WebhookSettings, (&'static str, String)> {
        let http = |text: &&str| {
            let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
            rest.is_some_and(|rest| !rest.starts_with(['/', '?', '#'])) && text.parse::<http::Uri>().is_ok()
        };
        let url = self.url.as_deref().filter(http);
        let url =
            url.ok_or_else(|| ("url", "must be a URL such as https://checks.example.org/file".to_owned()))?;
        let base_url = self.base_url.as_deref().or(public_url).filter(http).ok_or_else(|| {
            let problem = "must be the URL of osproxy, because `server.public_url` is not set";
            ("base_url", problem.to_owned())
        })?;
        let authorization =
            secret::resolve("authorization", self.authorization.as_ref(), self.authorization_file.as_deref());
        let authorization = authorization.map_err(|problem| ("authorization", problem))?;
        let authorization = authorization.map(|secret| secret.reveal().to_owned());
        if authorization.as_ref().is_some_and(|value| http::HeaderValue::from_str(value).is_err()) {
            return Err(("authorization", "must be a valid value of a header".to_owned()));
        }
        Ok(WebhookSettings {
            url: url.to_owned(),
            base_url: base_url.to_owned(),
            authorization,
            timeout,
            link_lifetime: Duration::from_secs(self.link_lifetime.unwrap_or(600)),
        })
    }

    fn command(&self, limits: ProgramLimits) -> Result<CommandSettings, (&'static str, String)> {
        let Some(program) = self.command.first() else {
            return Err(("command", "must name a program".to_owned()));
        };
        check_program(Path::new(program)).map_err(|problem| ("command", problem))?;
        if self.command.iter().any(|argument| argument.contains('\0')) {
            return Err(("command", "must not contain NUL".to_owned()));
        }
        if let Some(relative) = self.readable.iter().find(|path| !path.is_absolute()) {
            return Err(("readable", format!("{} is no absolute path", relative.display())));
        }
        Ok(CommandSettings { argv: self.command.clone(), readable: self.readable.clone(), limits })
    }
}

/// Fails with a message unless `path` is an absolute path of a program.
fn check_program(path: &Path) -> Result<(), String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(format!("{shown} must be an absolute path"));
    }
    #[expect(clippy::disallowed_methods, reason = "before the reactor runs")]
    let file = std::fs::metadata(path).map_err(|error| format!("there is no program {shown}: {error}"))?;
    if file.is_file() && file.permissions().mode() & 0o111 != 0 {
        Ok(())
    } else {
        Err(format!("{shown} is no program: it is not an executable file"))
    }
}

fn parse_scanner(text: &str) -> Option<ScannerAddress> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Path::new(path).is_absolute().then(|| ScannerAddress::Unix(path.into()));
    }
    let address = text.strip_prefix("tcp://")?;
    let (host, port) = address.rsplit_once(':')?;
    let is_valid = !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port > 0);
    is_valid.then(|| ScannerAddress::Tcp(address.to_owned()))
}

/// Whether this is a MIME type, or a family such as `image/*`.
fn is_pattern(text: &str) -> bool {
    let is_token = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
    };
    text.split_once('/')
        .is_some_and(|(kind, subtype)| is_token(kind) && (subtype == "*" || is_token(subtype)))
}

impl Config {
    /// Returns the settings of the processing pipeline. Fails with all problems. Blocks while it
    /// reads secrets and looks for programs.
    pub fn processing_settings(&self) -> Result<ProcessingSettings, Vec<String>> {
        let (mut steps, mut problems) = (Vec::new(), Vec::new());
        for (index, step) in self.processing.iter().enumerate() {
            match step.settings(self.server.public_url.as_deref()) {
                Ok(step) => steps.push(step),
                Err((setting, problem)) => problems.push(format!("processing[{index}].{setting}: {problem}")),
            }
        }
        if problems.is_empty() { Ok(ProcessingSettings { steps }) } else { Err(problems) }
    }

    /// Describes the steps whose programs Landlock does not protect: those that must therefore not
    /// run, or those for which this is accepted.
    pub fn steps_without_landlock(&self, is_accepted: bool) -> Vec<String> {
        let has_program = |step: &StepSection| {
            matches!(step.step, Some(StepName::Image | StepName::Media | StepName::Command))
        };
        let steps = self.processing.iter().enumerate().filter(|(_, step)| has_program(step));
        let steps = steps.filter(|(_, step)| step.require_landlock != is_accepted);
        let described = steps.map(|(index, step)| {
            let name = step.step.map_or("", StepName::as_str);
            format!("processing[{index}]: the program of the step {name} could read files of the service")
        });
        described.collect()
    }

    /// Returns the names of the configured steps.
    pub fn processing_policy(&self) -> ProcessingPolicy {
        let names = |blocking| {
            let steps = self.processing.iter().filter(move |step| step.blocking == blocking);
            steps.filter_map(|step| step.step).map(|name| name.as_str().to_owned()).collect()
        };
        ProcessingPolicy { blocking: names(true), beside: names(false) }
    }

    pub(super) fn check_processing(&self, findings: &mut Findings) {
        if let Err(problems) = self.processing_settings() {
            findings.problems.extend(problems);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::parse;

    #[test]
    fn steps_have_defaults() {
        let text = "processing: [{step: scan, clamd: 'unix:/run/clamd.sock', timeout: 5m},\n\
                    {step: image, blocking: false}, {step: command, command: [/bin/cat, -n], on_error: reject}]";
        let settings = parse(text, &[]).unwrap().processing_settings().unwrap();
        let [scan, image, command] = &settings.steps[..] else {
            panic!("{settings:?}");
        };
        assert!(scan.blocking && scan.on_error == OnError::Hold);
        assert_eq!(scan.timeout, Duration::from_secs(305));
        assert!(matches!(&scan.kind, StepKind::Scan(scan)
            if scan.address == ScannerAddress::Unix("/run/clamd.sock".into()) && scan.too_large == TooLarge::Reject));
        assert!(!image.blocking && image.on_error == OnError::Pass);
        assert!(matches!(&command.kind, StepKind::Command(command) if command.argv == ["/bin/cat", "-n"]));
        assert_eq!(command.on_error, OnError::Reject);
    }

    #[test]
    fn steps_with_programs_need_landlock() {
        let text = "processing: [{step: type}, {step: image}, {step: media, ffprobe: /bin/cat},\n\
                    {step: command, command: [/bin/cat], require_landlock: false}]";
        let config = parse(text, &[]).unwrap();
        let starts = |steps: Vec<String>| {
            let starts = steps.iter().map(|step| step.split(':').next().unwrap().to_owned());
            starts.collect::<Vec<_>>()
        };
        assert_eq!(starts(config.steps_without_landlock(false)), ["processing[1]", "processing[2]"]);
        assert_eq!(starts(config.steps_without_landlock(true)), ["processing[3]"]);
    }

    #[test]
    fn mistakes_are_named() {
        for (step, problem) in [
            ("{}", "step: must be one of scan, type, image, media, webhook, command"),
            ("{step: scan}", "clamd: must be an address such as"),
            ("{step: scan, clamd: 'localhost:3310'}", "clamd: must be an address such as"),
            ("{step: scan, clamd: 'tcp://localhost:0'}", "clamd: must be an address such as"),
            ("{step: scan, clamd: 'unix:relative'}", "clamd: must be an address such as"),
            ("{step: type, clamd: 'unix:/x'}", "clamd: is a setting of scan, not of type"),
            ("{step: type, allow: ['*']}", "allow: \"*\" is no MIME type"),
            ("{step: type, timeout: 0}", "timeout: must be 1 to 86400 seconds"),
            (
                "{step: scan, require_landlock: false}",
                "require_landlock: is a setting of image, media, command",
            ),
            ("{step: image, max_memory: 1MiB}", "max_memory: must be at least 67108864"),
            ("{step: media, ffprobe: /nowhere/ffprobe}", "ffprobe: there is no program /nowhere/ffprobe"),
            ("{step: command}", "command: must name a program"),
            ("{step: command, command: [/nowhere/x]}", "command: there is no program /nowhere/x"),
            ("{step: command, command: [cat]}", "command: cat must be an absolute path"),
            ("{step: command, command: [/etc]}", "command: /etc is no program"),
            ("{step: webhook, url: 'ftp://x'}", "url: must be a URL such as"),
            ("{step: webhook, url: 'http://x/y'}", "base_url: must be the URL of osproxy"),
        ] {
            let problems = parse(&format!("processing: [{step}]"), &[]).unwrap_err();
            let expected = format!("processing[0].{problem}");
            assert!(problems.len() == 1 && problems[0].starts_with(&expected), "{step}: {problems:?}");
        }
        let unknown = parse("processing: [{step: scam}]", &[]).unwrap_err();
        assert!(unknown[0].starts_with("processing[0].step: must be one of scan"), "{unknown:?}");
    }
}
