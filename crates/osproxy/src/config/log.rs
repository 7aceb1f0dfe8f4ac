use super::value::{choice, section};

section! {
    /// `log`: log output on standard error.
    LogSection {
        /// Lowest level that is logged.
        level: LogLevel = LogLevel::Info,
        /// Format of log lines.
        format: LogFormat = LogFormat::Text,
    }
    ignored [
        "root_dir", "filename", "show_line", "max_backups", "max_size", "max_age", "compress", "enable_file"
    ]
}

choice! {
    /// Level of log lines.
    LogLevel {
        /// Failures that need attention.
        Error = "error",
        /// Unexpected conditions that osproxy handled.
        Warn = "warn",
        /// Start, stop, and one line for each request except successful health checks.
        Info = "info",
        /// Steps within a request, and successful health checks.
        Debug = "debug",
        /// Everything, including the libraries.
        Trace = "trace",
    }
}

choice! {
    /// Format of log lines.
    LogFormat {
        /// Human-readable text.
        Text = "text",
        /// One JSON object for each line.
        Json = "json",
    }
}
