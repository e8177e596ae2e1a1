//! What crosses the boundary, as shim.h declares it.
use std::os::raw::{c_char, c_void};
use std::slice;
use std::time::{Duration, SystemTime};

#[repr(C)]
#[derive(Clone, Copy)]
pub struct TrText {
    data: *const c_char,
    len: usize,
}

#[repr(C)]
pub struct TrAttribute {
    pub key: TrText,
    pub kind: i32,
    pub texts: *const TrText,
    pub num_texts: usize,
    pub integer: i64,
    pub real: f64,
}

pub const TR_TEXT: i32 = 0;
pub const TR_TEXTS: i32 = 1;
pub const TR_INT: i32 = 2;
pub const TR_DOUBLE: i32 = 3;

#[repr(C)]
pub struct TrEvent {
    pub name: TrText,
    pub unix_ns: i64,
}

#[repr(C)]
pub struct TrSpan {
    pub name: TrText,
    pub traceparent: TrText,
    pub tracestate: TrText,
    pub start_unix_ns: i64,
    pub end_unix_ns: i64,
    pub attributes: *const TrAttribute,
    pub num_attributes: usize,
    pub events: *const TrEvent,
    pub num_events: usize,
    pub is_error: i32,
    pub error: TrText,
}

#[repr(C)]
pub struct TrHeader {
    pub name: TrText,
    pub value: TrText,
}

#[derive(Clone, Copy)]
pub enum Outcome {
    Exported = 0,
    Failed = 1,
    Dropped = 2,
}

#[repr(C)]
pub struct TrHost {
    pub context: *mut c_void,
    pub post: extern "C" fn(*mut c_void, *const TrHeader, usize, *const u8, usize) -> i32,
    pub count: extern "C" fn(*mut c_void, i32, usize),
    pub release: extern "C" fn(*mut c_void),
}

#[repr(C)]
pub struct TrConfig {
    pub endpoint: TrText,
    pub service_version: TrText,
    pub sample_ratio: f64,
    pub max_queued_spans: usize,
    pub export_interval_ms: i64,
}

impl TrText {
    pub fn of(bytes: &[u8]) -> Self {
        TrText {
            data: bytes.as_ptr() as *const c_char,
            len: bytes.len(),
        }
    }
}

pub unsafe fn list<'a, T>(data: *const T, len: usize) -> &'a [T] {
    if len == 0 || data.is_null() {
        return &[];
    }
    slice::from_raw_parts(data, len)
}

pub unsafe fn text(text: TrText) -> String {
    String::from_utf8_lossy(list(text.data as *const u8, text.len)).into_owned()
}

pub fn time(unix_ns: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(unix_ns.max(0) as u64)
}

/// Writes `message`, cut to fit, and a NUL.
pub unsafe fn put_message(message: &str, out: *mut c_char, size: usize) {
    if out.is_null() || size == 0 {
        return;
    }
    let mut len = message.len().min(size - 1);
    while !message.is_char_boundary(len) {
        len -= 1;
    }
    std::ptr::copy_nonoverlapping(message.as_ptr() as *const c_char, out, len);
    *out.add(len) = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_between_characters() {
        let mut out = [1 as c_char; 4];
        unsafe { put_message("aßç", out.as_mut_ptr(), out.len()) };
        assert_eq!(out, [b'a' as c_char, 0xC3u8 as c_char, 0x9Fu8 as c_char, 0]);
        unsafe { put_message("aßç", out.as_mut_ptr(), 3) };
        assert_eq!(out[..2], [b'a' as c_char, 0]);
    }

    #[test]
    fn text_that_is_not_utf8_is_mended() {
        assert_eq!(unsafe { text(TrText::of(b"a\xFFb")) }, "a\u{FFFD}b");
    }
}
