//! Chat templates, rendered as transformers renders them.
use crate::abi::{call, free, object, put_new, put_str, text, Outcome, TkStr};
use crate::template_functions::{python_method, raise_exception, strftime_now, tojson, Raised};
use minijinja::value::{Serde, ValueKind};
use minijinja::{syntax::SyntaxConfig, AutoEscape, Environment, Error, Value};
use serde_json::{Map, Value as Json};
use std::error::Error as _;
use std::os::raw::{c_char, c_int};

const NAME: &str = "chat";

pub struct TkTemplate {
    env: Environment<'static>,
    bos: String,
    eos: String,
}

impl TkTemplate {
    fn new(source: &str, bos: &str, eos: &str) -> Outcome<Self> {
        let mut env = Environment::new();
        env.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .map_err(|e| e.to_string())?,
        );
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_unknown_method_callback(python_method);
        // Python's names of the constants, not Jinja's.
        env.set_formatter(|out, state, value| match value.kind() {
            ValueKind::None => out.write_str("None").map_err(Error::from),
            ValueKind::Bool => out
                .write_str(if value.is_true() { "True" } else { "False" })
                .map_err(Error::from),
            _ => minijinja::escape_formatter(out, state, value),
        });
        env.add_filter("tojson", tojson);
        env.add_function("raise_exception", raise_exception);
        env.add_function("strftime_now", strftime_now);
        env.add_template_owned(NAME, without_generation_tags(source))
            .map_err(|e| e.to_string())?;
        Ok(TkTemplate {
            env,
            bos: bos.into(),
            eos: eos.into(),
        })
    }

    fn render(&self, messages: &str, variables: &str, add_generation_prompt: bool) -> Outcome<String> {
        let messages: Json = serde_json::from_str(messages).map_err(|e| format!("messages: {e}"))?;
        let mut context: Map<String, Json> = match variables {
            "" => Map::new(),
            _ => serde_json::from_str(variables).map_err(|e| format!("template variables: {e}"))?,
        };
        context.insert("messages".into(), messages);
        context.insert("add_generation_prompt".into(), add_generation_prompt.into());
        for (name, token) in [("bos_token", &self.bos), ("eos_token", &self.eos)] {
            if !token.is_empty() {
                context.insert(name.into(), token.as_str().into());
            }
        }
        for name in ["tools", "documents"] {
            context.entry(name).or_insert(Json::Null);
        }
        let template = self.env.get_template(NAME).map_err(|e| e.to_string())?;
        template.render(Value::from(Serde(&context))).map_err(|e| {
            match e.source().and_then(|s| s.downcast_ref::<Raised>()) {
                Some(raised) => raised.0.clone(),
                None => e.to_string(),
            }
        })
    }
}

/// `{% generation %}` marks the assistant's text for training; what it encloses prints as it is.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (head, tail) = rest.split_at(start);
        out.push_str(head);
        rest = tail;
        let Some(end) = tail.find("%}") else { break };
        let (tag, after) = tail.split_at(end + 2);
        match tag[2..end].trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace()) {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[no_mangle]
pub unsafe extern "C" fn tk_template_new(
    source: *const c_char,
    source_len: usize,
    bos: *const c_char,
    bos_len: usize,
    eos: *const c_char,
    eos_len: usize,
    out: *mut *mut TkTemplate,
    err: *mut TkStr,
) -> c_int {
    call(err, || {
        put_new(
            out,
            TkTemplate::new(text(source, source_len)?, text(bos, bos_len)?, text(eos, eos_len)?)?,
        );
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tk_template_free(chat_template: *mut TkTemplate) {
    free(chat_template);
}

#[no_mangle]
pub unsafe extern "C" fn tk_template_render(
    chat_template: *const TkTemplate,
    messages: *const c_char,
    messages_len: usize,
    variables: *const c_char,
    variables_len: usize,
    add_generation_prompt: c_int,
    out: *mut TkStr,
    err: *mut TkStr,
) -> c_int {
    call(err, || {
        let (messages, variables) = (text(messages, messages_len)?, text(variables, variables_len)?);
        put_str(
            out,
            object(chat_template)?.render(messages, variables, add_generation_prompt != 0)?,
        );
        Ok(())
    })
}
