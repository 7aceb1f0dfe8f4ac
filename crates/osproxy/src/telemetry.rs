//! Logs: structured lines on standard error.

mod log_writer;

use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::{LogFormat, LogLevel, LogSection};
use log_writer::LogWriter;

pub use log_writer::FlushOnDrop;

/// Starts logging. Lines are written by a thread of their own, so that a full pipe holds up no request;
/// what is left is written when the returned value is dropped.
pub fn init(config: &LogSection) -> std::io::Result<FlushOnDrop> {
    let level = match config.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Libraries speak up when it matters, or when everything is asked for.
    let others = if level == LevelFilter::TRACE { level } else { level.min(LevelFilter::WARN) };
    let filter = Targets::new().with_default(others).with_target("osproxy", level);
    let coloured = config.format == LogFormat::Text && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let (writer, flush) = LogWriter::start(std::io::stderr(), coloured)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_target(false);
    let lines = match config.format {
        LogFormat::Text => lines.with_ansi(coloured).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    Ok(flush)
}
