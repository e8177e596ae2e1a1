/* C ABI over the `tokenizers` and `minijinja` crates. No Rust type and no panic crosses it.
 *
 * Calls that return int give 0 on success. On failure they give 1, fill `err` where it is not null, and leave their
 * other outputs alone. Texts are UTF-8 with a length, not NUL-terminated. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct { /* released with tk_str_free */
  uint8_t* data;
  size_t len;
} TkStr;

typedef struct { /* released with tk_ids_free */
  uint32_t* data;
  size_t len;
} TkIds;

typedef struct TkTokenizer TkTokenizer; /* immutable: shared freely between threads */
typedef struct TkStream TkStream;       /* one sequence: one thread at a time */
typedef struct TkTemplate TkTemplate;   /* immutable: shared freely between threads */

void tk_str_free(TkStr str);
void tk_ids_free(TkIds ids);

/* `path` names a tokenizer.json. Its truncation and padding are not taken over: they belong to training. */
int tk_load(const char* path, size_t path_len, TkTokenizer** out, TkStr* err);
void tk_free(TkTokenizer* tokenizer);
int tk_encode(const TkTokenizer* tokenizer, const char* text, size_t text_len, int add_special, TkIds* out, TkStr* err);
/* Ids outside the vocabulary have no text. */
int tk_decode(const TkTokenizer* tokenizer, const uint32_t* ids, size_t num_ids, int skip_special, TkStr* out,
              TkStr* err);
size_t tk_vocab_size(const TkTokenizer* tokenizer);
/* The most bytes of text that one token stands for. */
size_t tk_max_token_bytes(const TkTokenizer* tokenizer);
/* -1 where there is no such token. */
int64_t tk_token_to_id(const TkTokenizer* tokenizer, const char* token, size_t token_len);

/* Keeps what it needs of the tokenizer, which may be freed before it. */
int tk_stream_new(const TkTokenizer* tokenizer, int skip_special, TkStream** out, TkStr* err);
void tk_stream_free(TkStream* stream);
/* `out` is empty while a character is unfinished. */
int tk_stream_step(TkStream* stream, uint32_t id, TkStr* out, TkStr* err);
/* What is held back when the sequence ends; an unfinished character reads U+FFFD. The stream starts anew. */
int tk_stream_flush(TkStream* stream, TkStr* out, TkStr* err);

/* Empty `bos` and `eos`: the model has none, and the template sees them undefined. */
int tk_template_new(const char* source, size_t source_len, const char* bos, size_t bos_len, const char* eos,
                    size_t eos_len, TkTemplate** out, TkStr* err);
void tk_template_free(TkTemplate* chat_template);
/* `messages`: a JSON array. `variables`: a JSON object of what else the template may read (tools, ...), or empty. */
int tk_template_render(const TkTemplate* chat_template, const char* messages, size_t messages_len,
                       const char* variables, size_t variables_len, int add_generation_prompt, TkStr* out, TkStr* err);

#ifdef __cplusplus
}
#endif
