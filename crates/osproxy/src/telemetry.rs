//! Writes log lines to standard error. Exports traces to a collector, if one is configured.

mod log_format;
mod log_writer;

use std::{io, sync::Arc, time::Duration};

use log_format::{AccessLogWriter, LineFormat};
use log_writer::{FlushOnDrop, LogWriter};
use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};
use osproxy_cluster::trace_context;
use osproxy_http::AccessLog;
use tracing_subscriber::{
    Layer,
    filter::{FilterFn, LevelFilter, Targets},
    fmt::format::JsonFields,
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::{
    config::{LogFormat, LogLevel, LogSection, TelemetrySection},
    version,
};

/// Timeout of an export to the collector.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of the final export at shutdown.
const LAST_EXPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// Handle of the running log and of the export of traces. On drop, exports the remaining traces,
/// then writes the remaining log lines.
pub struct Telemetry {
    access_log: Arc<dyn AccessLog>,
    traces: Option<SdkTracerProvider>,
    /// Dropped after the remaining traces are exported, because errors of the export are logged.
    _flush: FlushOnDrop,
}

impl Telemetry {
    /// Returns the access log, which is part of the log.
    pub fn access_log(&self) -> Arc<dyn AccessLog> {
        self.access_log.clone()
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(traces) = &self.traces
            && let Err(error) = traces.shutdown_with_timeout(LAST_EXPORT_TIMEOUT)
        {
            tracing::warn!(%error, "could not export the remaining traces");
        }
    }
}

/// Starts logging and, if a collector is configured, the export of traces. Each runs on a separate
/// thread, so that a full pipe or a slow collector delays no request. Blocks: call this before the
/// runtime starts.
pub fn init(log: &LogSection, telemetry: &TelemetrySection) -> io::Result<Telemetry> {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Log lines of libraries below the level `warn` are dropped, unless the level is `trace`.
    let library_level = if level == LevelFilter::TRACE { level } else { level.min(LevelFilter::WARN) };
    let filter = Targets::new()
        .with_default(library_level)
        .with_target("osproxy", level)
        // Logs every request that fails as an error, and the signatures that it expected.
        .with_target("s3s", LevelFilter::OFF);
    let coloured = log.format == LogFormat::Text && io::IsTerminal::is_terminal(&io::stderr());
    let (writer, flush) = LogWriter::start(io::stderr(), coloured)?;
    let access_log =
        Arc::new(AccessLogWriter { writer: writer.clone(), format: log.format, level, coloured });
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(coloured);
    let format = LineFormat(log.format);
    let lines = match log.format {
        LogFormat::Text => lines.event_format(format).boxed(),
        LogFormat::Json => lines.fmt_fields(JsonFields::new()).event_format(format).boxed(),
    };
    let provider = telemetry.traces_url().map(|url| trace_provider(&url)).transpose()?;
    let traces = provider.as_ref().map(|provider| trace_layer(provider.tracer("osproxy")));
    tracing_subscriber::registry().with(lines.with_filter(filter)).with(traces).init();
    std::panic::set_hook(Box::new(log_panic));
    if provider.is_some() {
        trace_context::enable();
    }
    Ok(Telemetry { access_log, traces: provider, _flush: flush })
}

/// Creates a provider that exports traces in batches.
fn trace_provider(url: &str) -> io::Result<SdkTracerProvider> {
    // The error is ignored: it means that a crypto provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::blocking::Client::builder().no_proxy().timeout(EXPORT_TIMEOUT).build();
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

/// Creates a layer that exports the spans of osproxy, but not those of libraries. Events are not
/// exported, because they may contain data that the collector should not see.
fn trace_layer<S>(tracer: SdkTracer) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    let is_own_span = FilterFn::new(|metadata| {
        let target = metadata.target();
        metadata.is_span() && (target == trace_context::TARGET || target.starts_with("osproxy"))
    });
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(is_own_span)
}

/// Logs the location of a panic; the line has the id of the request. The message is logged
/// only if it is a literal, because a formatted message may contain data from a client.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let location = panic.location().map(tracing::field::display);
    let reason = panic.payload().downcast_ref::<&'static str>();
    tracing::error!(location, reason, "panic");
}
