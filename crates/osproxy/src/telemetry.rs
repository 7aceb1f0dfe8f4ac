//! Logs: structured lines on standard error. Traces: sent to a collector, if there is one.

mod log_writer;

use std::{io, time::Duration};

use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};
use tracing_subscriber::{
    Layer,
    filter::{FilterFn, LevelFilter, Targets},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::{
    config::{LogFormat, LogLevel, LogSection, TelemetrySection},
    traces, version,
};
use log_writer::{FlushOnDrop, LogWriter};

/// How long a collector may take for what it is sent.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same for what is left when the process ends.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// What is left of logs and traces is written and sent when this is dropped.
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    /// The last to go: what becomes of the traces is told there.
    _flush: FlushOnDrop,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(traces) = &self.traces
            && let Err(error) = traces.shutdown_with_timeout(LAST_PATIENCE)
        {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// Starts logging, and sending traces if somebody collects them. Lines are written by a thread of their own, so that a full
/// pipe holds up no request, and traces by another. Blocks, so it is to be called before the reactor runs.
pub fn init(log: &LogSection, telemetry: &TelemetrySection) -> io::Result<Telemetry> {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Libraries speak up when it matters, or when everything is asked for.
    let others = if level == LevelFilter::TRACE { level } else { level.min(LevelFilter::WARN) };
    let filter = Targets::new().with_default(others).with_target("osproxy", level);
    let coloured = log.format == LogFormat::Text && io::IsTerminal::is_terminal(&io::stderr());
    let (writer, flush) = LogWriter::start(io::stderr(), coloured)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_target(false);
    let lines = match log.format {
        LogFormat::Text => lines.with_ansi(coloured).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    let provider = telemetry.traces_url().map(|url| provider(&url)).transpose()?;
    let traces = provider.as_ref().map(|provider| layer(provider.tracer("osproxy")));
    tracing_subscriber::registry().with(lines.with_filter(filter)).with(traces).init();
    std::panic::set_hook(Box::new(log_panic));
    if provider.is_some() {
        traces::collect();
    }
    Ok(Telemetry { traces: provider, _flush: flush })
}

/// Sends traces to a collector, some at a time.
fn provider(url: &str) -> io::Result<SdkTracerProvider> {
    // Whoever was first has chosen the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::blocking::Client::builder().no_proxy().timeout(PATIENCE).build();
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client.map_err(io::Error::other)?)
        .with_endpoint(url)
        .build()
        .map_err(io::Error::other)?;
    let version = KeyValue::new("service.version", version::NUMBER);
    let resource = Resource::builder_empty().with_service_name("osproxy").with_attribute(version).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// Makes traces of this program's own spans. Events stay in the log: they may say more than others are to know.
fn layer<S>(tracer: SdkTracer) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    let own = FilterFn::new(|metadata| {
        let target = metadata.target();
        metadata.is_span() && (target == traces::TARGET || target.starts_with("osproxy"))
    });
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(own)
}

/// Says where a panic was, with the id of the request that it ended. What it says is told only where it is written in the
/// source: anything else may hold what a client sent.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let location = panic.location().map(tracing::field::display);
    let message = panic.payload().downcast_ref::<&'static str>();
    tracing::error!(location, message, "a panic");
}
