use super::value::{choice, section};

section! {
    /// `log`: what is written to standard error, and how.
    LogSection {
        /// The least important kind of line that is written.
        level: LogLevel = LogLevel::Info,
        /// How lines look.
        format: LogFormat = LogFormat::Text,
    }
    ignored [
        "root_dir", "filename", "show_line", "max_backups", "max_size", "max_age", "compress", "enable_file"
    ]
}

choice! {
    /// Importance of a line.
    LogLevel {
        /// Something failed that should not.
        Error = "error",
        /// Something is odd.
        Warn = "warn",
        /// One line a request, starts and stops.
        Info = "info",
        /// Steps within a request.
        Debug = "debug",
        /// Everything, the libraries' lines too.
        Trace = "trace",
    }
}

choice! {
    /// How lines look.
    LogFormat {
        /// For people.
        Text = "text",
        /// For machines: one JSON object a line.
        Json = "json",
    }
}
