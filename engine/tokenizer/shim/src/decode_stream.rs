//! Incremental decoding. The crate's own DecodeStream is quadratic, and holds back without end, when the text ends in
//! U+FFFD; this one holds at most MAX_HELD ids.
use crate::abi::{call, free, object, object_mut, put_new, put_str, Outcome, TkStr};
use crate::tokenizer::TkTokenizer;
use std::os::raw::c_int;
use std::sync::Arc;
use tokenizers::Tokenizer;

/// A character is at most four bytes: more held ids than this are noise or skipped special tokens.
const MAX_HELD: usize = 16;
const BROKEN: char = '\u{FFFD}';

pub struct TkStream {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    /// The ids that give the decoder its context, then the held ones.
    ids: Vec<u32>,
    num_context: usize,
    /// What of the text of `ids` has been given out.
    given: String,
}

impl TkStream {
    fn text(&self) -> Outcome<String> {
        self.tokenizer
            .decode(&self.ids, self.skip_special)
            .map_err(|e| e.to_string())
    }

    /// What `text` adds to the text that has been given out.
    fn fresh(&self, text: &str) -> String {
        match text.strip_prefix(self.given.as_str()) {
            Some(rest) => rest.into(),
            None => {
                // Noise that was given out as U+FFFD has become a character.
                let same = text.chars().zip(self.given.chars()).take_while(|(a, b)| a == b);
                text[same.map(|(c, _)| c.len_utf8()).sum::<usize>()..].into()
            }
        }
    }

    fn step(&mut self, id: u32) -> Outcome<String> {
        self.ids.push(id);
        let text = self.text()?;
        let whole = text.len() > self.given.len() && !text.ends_with(BROKEN);
        if !whole && self.ids.len() - self.num_context < MAX_HELD {
            return Ok(String::new());
        }
        let mut out = self.fresh(&text);
        self.ids.drain(..self.num_context);
        self.num_context = self.ids.len();
        self.given = self.text()?;
        // The end of the noise may be the beginning of a character.
        if self.given.ends_with(BROKEN) && out.ends_with(BROKEN) {
            self.given.pop();
            out.pop();
        }
        Ok(out)
    }

    fn flush(&mut self) -> Outcome<String> {
        let rest = self.fresh(&self.text()?);
        self.ids.clear();
        self.num_context = 0;
        self.given.clear();
        Ok(rest)
    }
}

#[no_mangle]
pub unsafe extern "C" fn tk_stream_new(
    tokenizer: *const TkTokenizer,
    skip_special: c_int,
    out: *mut *mut TkStream,
    err: *mut TkStr,
) -> c_int {
    call(err, || {
        let tokenizer = object(tokenizer)?.0.clone();
        put_new(
            out,
            TkStream {
                tokenizer,
                skip_special: skip_special != 0,
                ids: vec![],
                num_context: 0,
                given: String::new(),
            },
        );
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tk_stream_free(stream: *mut TkStream) {
    free(stream);
}

#[no_mangle]
pub unsafe extern "C" fn tk_stream_step(stream: *mut TkStream, id: u32, out: *mut TkStr, err: *mut TkStr) -> c_int {
    call(err, || {
        put_str(out, object_mut(stream)?.step(id)?);
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tk_stream_flush(stream: *mut TkStream, out: *mut TkStr, err: *mut TkStr) -> c_int {
    call(err, || {
        put_str(out, object_mut(stream)?.flush()?);
        Ok(())
    })
}
