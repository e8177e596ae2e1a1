/* C ABI over the `opentelemetry` crates: spans in, OTLP requests out. No Rust type and no panic crosses it, and neither
 * side frees what the other allocated. Texts are UTF-8 with a length, not NUL-terminated; bytes that are not UTF-8 are
 * replaced. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct { /* whoever made it keeps it until the call returns */
  const char* data;
  size_t len;
} TrText;

enum { TR_TEXT, TR_TEXTS, TR_INT, TR_DOUBLE };

typedef struct {
  TrText key;
  int32_t kind;        /* which of the rest counts */
  const TrText* texts; /* TR_TEXT: one */
  size_t num_texts;
  int64_t integer;
  double real;
} TrAttribute;

typedef struct {
  TrText name;
  int64_t unix_ns;
} TrEvent;

typedef struct {
  TrText name;
  TrText traceparent; /* W3C trace context of the caller; empty or malformed: the span is a root */
  TrText tracestate;
  int64_t start_unix_ns, end_unix_ns;
  const TrAttribute* attributes;
  size_t num_attributes;
  const TrEvent* events;
  size_t num_events;
  int32_t is_error;
  TrText error; /* of is_error: what went wrong */
} TrSpan;

typedef struct {
  TrText name;
  TrText value;
} TrHeader;

enum { TR_EXPORTED, TR_FAILED, TR_DROPPED };

/* What the tracer calls, on any thread, until `release`. */
typedef struct {
  void* context;
  /* Posts one request to the endpoint and returns the answer's HTTP status, or 0 where there was none. May block; one
   * at a time. */
  int32_t (*post)(void* context, const TrHeader* headers, size_t num_headers, const uint8_t* body, size_t len);
  /* So many spans were exported, refused or lost by the collector (TR_FAILED), or found the queue full (TR_DROPPED). */
  void (*count)(void* context, int32_t outcome, size_t num_spans);
  /* The last call, once, also after a failed tr_new: nobody will use the context any more. */
  void (*release)(void* context);
} TrHost;

typedef struct {
  TrText endpoint; /* URL of the requests */
  TrText service_version;
  double sample_ratio; /* of the traces that begin here, 0 to 1; a caller's decision goes before it */
  size_t max_queued_spans;
  int64_t export_interval_ms; /* 0: OTEL_BSP_SCHEDULE_DELAY, else 5000 */
} TrConfig;

typedef struct TrTracer TrTracer; /* shared freely between threads */

/* 0 and a tracer; or 1 and a NUL-terminated message, cut to fit. */
int tr_new(const TrConfig* config, TrHost host, TrTracer** out, char* err, size_t err_size);
/* A span that has ended. Never waits. Gives 1 and the trace's id in hexadecimal, sampled or not; 0 after a shutdown. */
int tr_record(const TrTracer* tracer, const TrSpan* span, char trace_id[32]);
/* Exports what is queued and takes no more. 0; or 1 when the time ran out, and the tracer's thread is left to itself.
 */
int tr_shutdown(const TrTracer* tracer, int64_t timeout_ms);
void tr_free(TrTracer* tracer);

#ifdef __cplusplus
}
#endif
