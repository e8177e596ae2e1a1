//! Ended spans to the SDK.
use crate::abi::{list, put_message, text, time, TrAttribute, TrConfig, TrHost, TrSpan};
use crate::abi::{TR_DOUBLE, TR_INT, TR_TEXT, TR_TEXTS};
use crate::host::{Host, HostClient};
use crate::queue::{BoundedProcessor, CountingExporter, Queue};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Event, Span as _, SpanBuilder, SpanKind, Status, Tracer as _, TracerProvider as _};
use opentelemetry::{Array, Context, InstrumentationScope, Key, KeyValue, StringValue, Value};
use opentelemetry_otlp::{Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider};
use opentelemetry_sdk::Resource;
use std::os::raw::{c_char, c_int};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;

pub struct TrTracer {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, else our own.
fn resource(version: &str) -> Resource {
    let detected = Resource::builder().build();
    let name = Key::new("service.name");
    let mut builder = Resource::builder();
    // What the specification wants of an SDK that was told no name.
    if detected.get(&name).map_or(true, |value| value.as_str().starts_with("unknown_service")) {
        builder = builder.with_service_name("spotlight");
    }
    let version_key = Key::new("service.version");
    if detected.get(&version_key).is_none() {
        builder = builder.with_attribute(KeyValue::new(version_key, version.to_owned()));
    }
    builder.build()
}

unsafe fn new_tracer(config: &TrConfig, host: Arc<Host>) -> Result<TrTracer, String> {
    let version = text(config.service_version);
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(HostClient(host.clone()))
        .with_protocol(Protocol::HttpBinary)
        .with_retry_policy(RetryPolicy::recommended())
        .with_endpoint(text(config.endpoint))
        .build()
        .map_err(|error| error.to_string())?;
    let queue = Arc::new(Queue::new(host, config.max_queued_spans));
    let mut batches = BatchConfigBuilder::default().with_max_queue_size(config.max_queued_spans);
    if config.export_interval_ms > 0 {
        batches = batches.with_scheduled_delay(Duration::from_millis(config.export_interval_ms as u64));
    }
    let counting = CountingExporter {
        inner: exporter,
        queue: queue.clone(),
    };
    let processor = BoundedProcessor {
        inner: BatchSpanProcessor::builder(counting)
            .with_batch_config(batches.build())
            .build(),
        queue,
    };
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_ratio)));
    let provider = SdkTracerProvider::builder()
        .with_resource(resource(&version))
        .with_sampler(sampler)
        .with_span_processor(processor)
        .build();
    let scope = InstrumentationScope::builder("spotlight-server")
        .with_version(version)
        .build();
    let tracer = provider.tracer_with_scope(scope);
    Ok(TrTracer { provider, tracer })
}

struct Carrier {
    traceparent: String,
    tracestate: String,
}

impl Extractor for Carrier {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(&self.traceparent),
            "tracestate" => Some(&self.tracestate),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

unsafe fn attribute(attribute: &TrAttribute) -> Option<KeyValue> {
    let texts = list(attribute.texts, attribute.num_texts);
    let value = match attribute.kind {
        TR_TEXT => Value::from(text(*texts.first()?)),
        TR_TEXTS => {
            let texts = texts.iter().map(|&each| StringValue::from(unsafe { text(each) }));
            Value::Array(Array::String(texts.collect()))
        }
        TR_INT => Value::from(attribute.integer),
        TR_DOUBLE => Value::from(attribute.real),
        _ => return None,
    };
    Some(KeyValue::new(text(attribute.key), value))
}

unsafe fn record(tracer: &SdkTracer, span: &TrSpan) -> Option<String> {
    let carrier = Carrier {
        traceparent: text(span.traceparent),
        tracestate: text(span.tracestate),
    };
    let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
    let attributes = list(span.attributes, span.num_attributes);
    let events = list(span.events, span.num_events);
    let builder = SpanBuilder::from_name(text(span.name))
        .with_kind(SpanKind::Server)
        .with_start_time(time(span.start_unix_ns))
        .with_attributes(attributes.iter().filter_map(|each| attribute(each)))
        .with_events(
            events
                .iter()
                .map(|event| Event::new(text(event.name), time(event.unix_ns), Vec::new(), 0))
                .collect(),
        );
    let mut ended = tracer.build_with_context(builder, &parent);
    if !ended.span_context().is_valid() {
        return None; // after a shutdown
    }
    let trace_id = ended.span_context().trace_id().to_string();
    if span.is_error != 0 {
        ended.set_status(Status::error(text(span.error)));
    }
    ended.end_with_timestamp(time(span.end_unix_ns));
    Some(trace_id)
}

#[no_mangle]
pub unsafe extern "C" fn tr_new(
    config: *const TrConfig,
    host: TrHost,
    out: *mut *mut TrTracer,
    err: *mut c_char,
    err_size: usize,
) -> c_int {
    let host = Arc::new(Host::new(host));
    let made = catch_unwind(AssertUnwindSafe(|| new_tracer(&*config, host)));
    match made.unwrap_or_else(|_| Err("panic".to_owned())) {
        Ok(tracer) => {
            *out = Box::into_raw(Box::new(tracer));
            0
        }
        Err(message) => {
            put_message(&message, err, err_size);
            1
        }
    }
}

#[no_mangle]
pub unsafe extern "C" fn tr_record(tracer: *const TrTracer, span: *const TrSpan, trace_id: *mut c_char) -> c_int {
    match catch_unwind(AssertUnwindSafe(|| record(&(*tracer).tracer, &*span))) {
        Ok(Some(id)) if id.len() == 32 => {
            std::ptr::copy_nonoverlapping(id.as_ptr() as *const c_char, trace_id, 32);
            1
        }
        _ => 0,
    }
}

#[no_mangle]
pub unsafe extern "C" fn tr_shutdown(tracer: *const TrTracer, timeout_ms: i64) -> c_int {
    let timeout = Duration::from_millis(timeout_ms.max(0) as u64);
    let ended = catch_unwind(AssertUnwindSafe(|| {
        (*tracer).provider.shutdown_with_timeout(timeout)
    }));
    matches!(ended, Ok(Ok(()))).then_some(0).unwrap_or(1)
}

#[no_mangle]
pub unsafe extern "C" fn tr_free(tracer: *mut TrTracer) {
    if !tracer.is_null() {
        let _ = catch_unwind(AssertUnwindSafe(|| drop(Box::from_raw(tracer))));
    }
}
