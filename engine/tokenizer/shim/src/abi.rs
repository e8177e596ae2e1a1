//! What every call shares: strings and ids across the boundary, errors, panics.
use std::os::raw::{c_char, c_int};
use std::panic::{catch_unwind, AssertUnwindSafe};

#[repr(C)]
pub struct TkStr {
    data: *mut u8,
    len: usize,
}

#[repr(C)]
pub struct TkIds {
    data: *mut u32,
    len: usize,
}

pub type Outcome<T> = Result<T, String>;

/// Runs `body`; its error or panic becomes `err` and the return value 1.
pub unsafe fn call(err: *mut TkStr, body: impl FnOnce() -> Outcome<()>) -> c_int {
    let message = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return 0,
        Ok(Err(message)) => message,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            format!("panic: {}", text.unwrap_or("unknown"))
        }
    };
    put_str(err, message);
    1
}

pub unsafe fn put_str(out: *mut TkStr, text: String) {
    if out.is_null() {
        return;
    }
    let bytes = text.into_bytes().into_boxed_slice();
    let len = bytes.len();
    *out = TkStr {
        data: Box::into_raw(bytes) as *mut u8,
        len,
    };
}

pub unsafe fn put_ids(out: *mut TkIds, ids: &[u32]) {
    let ids: Box<[u32]> = ids.into();
    let len = ids.len();
    *out = TkIds {
        data: Box::into_raw(ids) as *mut u32,
        len,
    };
}

pub unsafe fn put_new<T>(out: *mut *mut T, object: T) {
    *out = Box::into_raw(Box::new(object));
}

pub unsafe fn text<'a>(data: *const c_char, len: usize) -> Outcome<&'a str> {
    if len == 0 {
        return Ok("");
    }
    if data.is_null() {
        return Err("null text".into());
    }
    let bytes = std::slice::from_raw_parts(data as *const u8, len);
    std::str::from_utf8(bytes).map_err(|e| format!("text is not UTF-8 at byte {}", e.valid_up_to()))
}

pub unsafe fn object<'a, T>(handle: *const T) -> Outcome<&'a T> {
    handle.as_ref().ok_or_else(|| "null handle".into())
}

pub unsafe fn object_mut<'a, T>(handle: *mut T) -> Outcome<&'a mut T> {
    handle.as_mut().ok_or_else(|| "null handle".into())
}

pub unsafe fn free<T>(handle: *mut T) {
    if !handle.is_null() {
        drop(Box::from_raw(handle));
    }
}

#[no_mangle]
pub unsafe extern "C" fn tk_str_free(str: TkStr) {
    if !str.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(str.data, str.len)));
    }
}

#[no_mangle]
pub unsafe extern "C" fn tk_ids_free(ids: TkIds) {
    if !ids.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(ids.data, ids.len)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        let mut err = TkStr {
            data: std::ptr::null_mut(),
            len: 0,
        };
        unsafe {
            assert_eq!(call(&mut err, || panic!("on purpose")), 1);
            assert_eq!(text(err.data as *const c_char, err.len), Ok("panic: on purpose"));
            tk_str_free(err);
        }
    }
}
