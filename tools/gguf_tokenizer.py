"""tokenizer.json and tokenizer_config.json from a GGUF file's vocabulary, as the model's publisher wrote them."""

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
PUNCTUATION_AND_SPACE = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2_SPLIT = CONTRACTIONS + r"\p{N}" + PUNCTUATION_AND_SPACE
LLAMA3_SPLIT = CONTRACTIONS + r"\p{N}{1,3}" + PUNCTUATION_AND_SPACE

# GGUF token types; 2 (unknown), 5 (unused) and 6 (byte) take no part in a byte-level vocabulary.
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
END_TOKENS = ("<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")


class Unsupported(Exception):
    """What stops the conversion, said in one line."""


def byte_level(add_prefix_space, trim_offsets, use_regex):
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": trim_offsets, "use_regex": use_regex}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def split(regex):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def prepend_bos(token, token_id):
    piece, first, second = ({"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                            {"Sequence": {"id": "B", "type_id": 1}})
    template = {"type": "TemplateProcessing", "single": [piece, first],
                "pair": [piece, first, {"SpecialToken": {"id": token, "type_id": 1}}, second],
                "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}}}
    return {"type": "Sequence", "processors": [byte_level(True, False, True), template]}


def pipeline(pre, tokens, bos):
    """normalizer, pre_tokenizer, post_processor, decoder and model options of the publisher's tokenizer.json."""
    if pre == "smollm":
        return (None, sequence({"type": "Digits", "individual_digits": True}, byte_level(False, True, True)), None,
                byte_level(True, True, True), {"ignore_merges": False})
    if pre == "qwen2":
        plain = byte_level(False, False, False)
        return {"type": "NFC"}, sequence(split(QWEN2_SPLIT), plain), plain, plain, {"ignore_merges": False}
    if pre == "llama-bpe":
        if bos is None:
            raise Unsupported("has no field tokenizer.ggml.bos_token_id, which llama-bpe needs")
        return (None, sequence(split(LLAMA3_SPLIT), byte_level(False, True, False)), prepend_bos(tokens[bos], bos),
                byte_level(True, True, True), {"ignore_merges": True})
    raise Unsupported(f"pre-tokenizer {pre!r} is not supported (smollm, qwen2, llama-bpe)")


def vocabulary(tokens, types):
    """The model's own entries and the added tokens.

    The reader of tokenizer.json numbers added tokens that are not in the vocabulary from the vocabulary's size on, so
    only an unbroken run behind the last normal token may be left out of it.
    """
    added = [i for i, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED)]
    normal = {i for i, kind in enumerate(types) if kind == NORMAL}
    last = max(normal, default=-1)
    inside = [i for i in added if i < last]
    behind = [i for i in added if i > last]
    if len(normal) + len(inside) != last + 1 or behind != list(range(last + 1, last + 1 + len(behind))):
        inside = added
    ids = sorted(normal.union(inside))
    return {tokens[i]: i for i in ids}, added


def tokenizer_files(field, arch, context_length):
    """({file stem: content}, {bos/eos/pad_token_id}, every id that ends a sequence)."""
    model = field("tokenizer.ggml.model")
    if model != "gpt2":
        raise Unsupported(f"tokenizer {model!r} is not supported (gpt2: byte-level BPE)")
    tokens, types, merges = (field(f"tokenizer.ggml.{n}") for n in ("tokens", "token_type", "merges"))
    if not tokens or not types or not merges or len(tokens) != len(types):
        raise Unsupported("its vocabulary is incomplete (tokenizer.ggml.tokens, token_type, merges)")
    ids = {n: field(f"tokenizer.ggml.{n}_token_id") for n in ("bos", "eos", "padding", "unknown", "eot", "eom")}
    for name, value in ids.items():
        if value is not None and not 0 <= value < len(tokens):
            raise Unsupported(f"tokenizer.ggml.{name}_token_id {value} is not in [0, {len(tokens)})")
    bos, eos, pad = ids["bos"], ids["eos"], ids["padding"]
    if eos is None:
        raise Unsupported("has no field tokenizer.ggml.eos_token_id")

    normalizer, pre_tokenizer, post_processor, decoder, options = pipeline(field("tokenizer.ggml.pre"), tokens, bos)
    vocab, added_ids = vocabulary(tokens, types)
    added = [{"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": types[i] == CONTROL} for i in added_ids]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": decoder,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, **options, "vocab": vocab,
                  "merges": merges}}

    def text(token_id):
        return None if token_id is None else tokens[token_id]

    qwen = arch == "qwen2"
    config = {
        "add_bos_token": bool(field("tokenizer.ggml.add_bos_token", False)), "add_prefix_space": False,
        "added_tokens_decoder": {str(x["id"]): {k: v for k, v in x.items() if k != "id"} for x in added},
        "bos_token": None if qwen else text(bos), "eos_token": text(eos), "pad_token": text(pad),
        "unk_token": None if qwen else text(ids["unknown"]), "clean_up_tokenization_spaces": False,
        "model_max_length": context_length, "tokenizer_class": "PreTrainedTokenizerFast"}
    template = field("tokenizer.chat_template")
    if template:
        config["chat_template"] = template
    ends = [eos] + [i for i in (ids["eot"], ids["eom"]) if i is not None]
    ends += [i for i in added_ids if tokens[i] in END_TOKENS]
    return ({"tokenizer": tokenizer, "tokenizer_config": config},
            {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}, list(dict.fromkeys(ends)))
