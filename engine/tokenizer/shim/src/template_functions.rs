//! What transformers offers to chat templates beside Jinja's own filters and functions.
use minijinja::{value::Kwargs, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use std::fmt;
use std::io::{Result as IoResult, Write};
use std::os::raw::c_char;

/// Marks the error of a template that refuses its messages.
#[derive(Debug)]
pub struct Raised(pub String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

pub fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// Python's methods of strings, lists and mappings.
pub fn python_method(state: &mut State, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    match (method, value.as_str(), arguments) {
        ("title", Some(text), []) => Ok(title(text).into()),
        _ => unknown_method_callback(state, value, method, arguments),
    }
}

/// str.title: a word begins after any character that is not a letter. pycompat's begins after white space.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside_word = false;
    for c in text.chars() {
        match inside_word {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        inside_word = c.is_lowercase() || c.is_uppercase();
    }
    out
}

/// The separators of Python's json.dumps.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> IoResult<()> {
        writer.write_all(if first { b"" } else { b", " })
    }
    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> IoResult<()> {
        writer.write_all(if first { b"" } else { b", " })
    }
    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> IoResult<()> {
        writer.write_all(b": ")
    }
}

/// minijinja's own tojson is compact and escapes for HTML.
pub fn tojson(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "tojson(ensure_ascii=true) is not supported",
        ));
    }
    options.assert_all_used()?;
    let bad = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let mut json = serde_json::to_value(&value).map_err(bad)?;
    if sort_keys == Some(true) {
        json.sort_all_objects();
    }
    let mut out = Vec::new();
    match indent {
        Some(width) => {
            let unit = " ".repeat(width);
            json.serialize(&mut Serializer::with_formatter(
                &mut out,
                PrettyFormatter::with_indent(unit.as_bytes()),
            ))
            .map_err(bad)?
        }
        None => json
            .serialize(&mut Serializer::with_formatter(&mut out, PythonFormatter))
            .map_err(bad)?,
    }
    Ok(Value::from_safe_string(String::from_utf8_lossy(&out).into_owned()))
}

/// The local time, as datetime.now().strftime(format).
pub fn strftime_now(format: String) -> Result<String, Error> {
    let format = std::ffi::CString::new(format).map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))?;
    let mut out = [0u8; 256];
    let len = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut local: libc::tm = std::mem::zeroed();
        libc::localtime_r(&now, &mut local);
        libc::strftime(out.as_mut_ptr() as *mut c_char, out.len(), format.as_ptr(), &local)
    };
    Ok(String::from_utf8_lossy(&out[..len]).into_owned())
}
