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
    let (writer, flush) = LogWriter::start(std::io::stderr())?;
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_target(false);
    let lines = match config.format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    std::panic::set_hook(Box::new(log_panic));
    Ok(flush)
}

/// Says where a panic was, with the id of the request that it ended. What it says is told only where it is written in the
/// source: anything else may hold what a client sent.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let location = panic.location().map(tracing::field::display);
    let message = panic.payload().downcast_ref::<&'static str>();
    tracing::error!(location, message, "a panic");
}
