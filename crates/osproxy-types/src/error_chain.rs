//! Formats an error with its causes.

use std::error::Error;

/// Joins an error and its causes into one line, for logs and the command line. Skips a cause if the
/// line already ends with the message of the cause.
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line
}
