//! Whole texts to ids and back.
use crate::abi::{call, free, object, put_ids, put_new, put_str, text, Outcome, TkIds, TkStr};
use std::os::raw::{c_char, c_int};
use std::sync::Arc;
use tokenizers::{DecoderWrapper, Tokenizer};

pub struct TkTokenizer(pub Arc<Tokenizer>);

/// The splitting regexes match white space with look-ahead, one stack entry a character, and fancy-regex gives up at a
/// million of them; `tokenizers` then takes all the rest of the text for one word, without a sound.
const MAX_WHITE_SPACE_RUN: usize = 500_000;

fn check_white_space(text: &str) -> Outcome<()> {
    let mut run = 0;
    for c in text.chars() {
        run = if c.is_whitespace() { run + 1 } else { 0 };
        if run > MAX_WHITE_SPACE_RUN {
            return Err(format!(
                "text has more than {MAX_WHITE_SPACE_RUN} white space characters in a row"
            ));
        }
    }
    Ok(())
}

#[no_mangle]
pub unsafe extern "C" fn tk_load(
    path: *const c_char,
    path_len: usize,
    out: *mut *mut TkTokenizer,
    err: *mut TkStr,
) -> c_int {
    call(err, || {
        let mut tokenizer = Tokenizer::from_file(text(path, path_len)?).map_err(|e| e.to_string())?;
        tokenizer.with_truncation(None).map_err(|e| e.to_string())?;
        tokenizer.with_padding(None);
        put_new(out, TkTokenizer(Arc::new(tokenizer)));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tk_free(tokenizer: *mut TkTokenizer) {
    free(tokenizer);
}

#[no_mangle]
pub unsafe extern "C" fn tk_encode(
    tokenizer: *const TkTokenizer,
    data: *const c_char,
    len: usize,
    add_special: c_int,
    out: *mut TkIds,
    err: *mut TkStr,
) -> c_int {
    call(err, || {
        let text = text(data, len)?;
        check_white_space(text)?;
        // encode_fast leaves out offsets, which nobody reads.
        let encoding = object(tokenizer)?
            .0
            .encode_fast(text, add_special != 0)
            .map_err(|e| e.to_string())?;
        put_ids(out, encoding.get_ids());
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tk_decode(
    tokenizer: *const TkTokenizer,
    ids: *const u32,
    num_ids: usize,
    skip_special: c_int,
    out: *mut TkStr,
    err: *mut TkStr,
) -> c_int {
    call(err, || {
        let ids = if num_ids == 0 {
            &[][..]
        } else {
            std::slice::from_raw_parts(ids, num_ids)
        };
        put_str(
            out,
            object(tokenizer)?
                .0
                .decode(ids, skip_special != 0)
                .map_err(|e| e.to_string())?,
        );
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tk_vocab_size(tokenizer: *const TkTokenizer) -> usize {
    tokenizer.as_ref().map_or(0, |t| t.0.get_vocab_size(true))
}

#[no_mangle]
pub unsafe extern "C" fn tk_max_token_bytes(tokenizer: *const TkTokenizer) -> usize {
    tokenizer.as_ref().map_or(0, |t| {
        // A byte-level vocabulary spells each byte as one character, of one or two bytes.
        let byte_level = matches!(t.0.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
        let bytes_of = |entry: &String| if byte_level { entry.chars().count() } else { entry.len() };
        let entries = t.0.get_vocab(false).keys().map(bytes_of).max();
        let added = t.0.get_added_tokens_decoder().values().map(|token| token.content.len()).max();
        entries.max(added).unwrap_or(0)
    })
}

#[no_mangle]
pub unsafe extern "C" fn tk_token_to_id(tokenizer: *const TkTokenizer, token: *const c_char, token_len: usize) -> i64 {
    match (tokenizer.as_ref(), text(token, token_len)) {
        (Some(t), Ok(token)) => t.0.token_to_id(token).map_or(-1, i64::from),
        _ => -1,
    }
}
