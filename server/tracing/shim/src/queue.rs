//! The bound of what waits for the collector, and the count of what becomes of it. The SDK's batch processor has a bound
//! of its own, but tells nobody how many spans it dropped.
use crate::abi::Outcome;
use crate::host::Host;
use opentelemetry::Context;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor};
use opentelemetry_sdk::Resource;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// From a span's end until its export is over.
#[derive(Debug)]
pub struct Queue {
    host: Arc<Host>,
    capacity: usize,
    len: AtomicUsize,
}

impl Queue {
    pub fn new(host: Arc<Host>, capacity: usize) -> Self {
        Queue {
            host,
            capacity,
            len: AtomicUsize::new(0),
        }
    }

    fn enter(&self) -> bool {
        if self.len.fetch_add(1, Ordering::Relaxed) < self.capacity {
            return true;
        }
        self.len.fetch_sub(1, Ordering::Relaxed);
        self.host.count(Outcome::Dropped, 1);
        false
    }

    fn leave(&self, num_spans: usize, outcome: Outcome) {
        self.len.fetch_sub(num_spans, Ordering::Relaxed);
        self.host.count(outcome, num_spans);
    }
}

/// The batch processor behind the queue's door. Its own queue holds no fewer, so it never drops.
#[derive(Debug)]
pub struct BoundedProcessor {
    pub inner: BatchSpanProcessor,
    pub queue: Arc<Queue>,
}

impl SpanProcessor for BoundedProcessor {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.queue.enter() {
            self.inner.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// The exporter, on the batch processor's thread.
#[derive(Debug)]
pub struct CountingExporter<E> {
    pub inner: E,
    pub queue: Arc<Queue>,
}

impl<E: SpanExporter> SpanExporter for CountingExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let num_spans = batch.len();
        let result = self.inner.export(batch).await;
        let outcome = if result.is_ok() {
            Outcome::Exported
        } else {
            Outcome::Failed
        };
        self.queue.leave(num_spans, outcome);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
