//! Runs a configured program: the content is its standard input, and it prints a verdict as JSON.

use super::{
    OpenContent, Step, StepError, StepFile, Verdict, answer,
    sandbox::{Input, Program, Target},
    settings::CommandSettings,
};

/// The step `command`.
pub(super) struct Command {
    settings: CommandSettings,
}

impl Command {
    pub(super) fn new(settings: CommandSettings) -> Self {
        Self { settings }
    }
}

impl Step for Command {
    fn name(&self) -> &'static str {
        "command"
    }

    async fn run(&self, file: &StepFile, content: &dyn OpenContent) -> Result<Verdict, StepError> {
        let CommandSettings { argv, readable, limits } = &self.settings;
        let program = Program {
            target: Target::Program { argv: argv.clone(), readable: readable.clone() },
            environment: vec![
                ("OSPROXY_UID", file.uid.to_string()),
                ("OSPROXY_TENANT", file.tenant.to_string()),
                ("OSPROXY_NAME", file.name.clone()),
                ("OSPROXY_SIZE", file.size.to_string()),
                ("OSPROXY_CONTENT_TYPE", file.content_type.clone()),
            ],
            limits: *limits,
        };
        let input = Input::Stream(content.open(0..file.size).await?);
        answer::parse(&program.run(input).await?)
    }
}
