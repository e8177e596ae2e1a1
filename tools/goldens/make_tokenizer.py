#!/usr/bin/env python3
"""Token ids, decoded texts and rendered chat templates of transformers, for the tokenizers under tests/testdata.

usage: make_tokenizer.py    (writes tests/testdata/goldens/tokenizer_*.json and chat_templates.json)
"""
import json
import pathlib
import random

from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

TESTDATA = pathlib.Path(__file__).resolve().parents[2] / "tests" / "testdata"
TOKENIZERS = {"smollm2": "smollm2", "tiny_llama": "tiny-llama", "tiny_qwen2": "tiny-qwen2"}

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "It's what they'll've said: WE'RE DON'T it's 'tis 'S",
    "The quick brown fox jumps over the lazy dog. Don't panic; it's 42.",
    "In 2024, 1234567890 people paid $3,141.59 (about 99.9%) for 0x1F4A9 things\u2014really?",
    "def f(x):\n    if x > 0:\n\t\treturn {\"a\": [1, 2], 'b': x ** 2}  # comment\n\n\nprint(f(10))\n",
    "#include <vector>\nint main() { std::vector<int32_t> v{1,2}; return v[0] != 1 ? -1 : 0; }\r\n\r\n",
    "SELECT * FROM t WHERE a = 'b' AND c >= 10;-- https://example.com/?q=a%20b&c=d#e",
    "今天天气很好，我们一起去公园散步。你好，世界！",
    "混合 English 和中文 with 数字 12345 以及、标点「」《》。",
    "日本語のテキスト、カタカナ、ひらがな。 한국어 텍스트 안녕하세요",
    "😀😃 👨‍👩‍👧‍👦 🏳️‍🌈 🇫🇷🇩🇪 👍🏽 ❤️ e\u0301 vs \u00e9, \ufb01 \u212b",
    "Ünïcödé straße ŁÓDŹ Привет, мир! Γειά σου שלום مرحبا नमस्ते สวัสดี",
    "   leading, trailing   \n\n \n\t\t tabs\tand \u00a0nbsp \u3000ideographic\r\nCRLF\rCR   ",
    " " * 37 + "x" + "\n" * 9 + "y" + "\t" * 5,
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "a<|endoftext|>b <|im_end|> c<|im_en|><|begin_of_text|>",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β → γ ≈ √2 ± ∞ 𝒳𝕐𝔸",
    "zero\u200bwidth\u200djoin\ufeffbom \u202ertl\u202c \ufffd end",
    "supercalifragilisticexpialidocious" * 4,
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!!!!!!!!!!!!!!!???????",
    "camelCaseXMLHttpRequest snake_case kebab-case SCREAMING_SNAKE v1.2.3-rc4+build.5",
]

SYSTEM = {"role": "system", "content": "You answer in one sentence. "}
USER = {"role": "user", "content": "  What is 2 + 2?\nSay \"four\" & <nothing> else. "}
ASSISTANT = {"role": "assistant", "content": " Four, 四 😀. "}
CONVERSATIONS = [[USER], [SYSTEM, USER], [USER, ASSISTANT, {"role": "user", "content": "And 3 + 3?"}],
                 [SYSTEM, USER, ASSISTANT, {"role": "user", "content": ""}], [USER, USER], [ASSISTANT, USER]]
TEMPLATES = [("qwen2.5", None, "<|im_end|>"), ("llama-3.1", "<|begin_of_text|>", "<|eot_id|>"),
             ("llama-2", "<s>", "</s>"), ("python-isms", None, None)]


def random_texts(count):
    """Mixtures over the scripts, fixed seed."""
    rng = random.Random(20240803)
    ranges = [(0x20, 0x7E)] * 4 + [(0xA1, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
                                   (0x1F300, 0x1F64F), (0x300, 0x36F), (0x2000, 0x206F), (0x30, 0x39)]
    for _ in range(count):
        pieces = []
        for _ in range(rng.randint(5, 30)):
            low, high = rng.choice(ranges)
            pieces.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 4))))
            pieces.append(rng.choice(["", "", " ", "  ", "\n", "\t"]))
        yield "".join(pieces)


def dump(name, head, cases):
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    text = f'{json.dumps({"made_with": "transformers 4.57.6, tokenizers 0.22.2", **head})[:-1]}, "cases": [\n{lines}\n]}}\n'
    (TESTDATA / "goldens" / f"{name}.json").write_text(text, encoding="utf-8")
    print(name, len(cases), "cases", len(text.encode()), "bytes")


def tokenizer_cases(tokenizer):
    for text in [*TEXTS, *random_texts(12)]:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        yield {"text": text, "ids": ids, "ids_with_special": tokenizer(text).input_ids,
               "decoded": tokenizer.decode(ids), "decoded_skipping_special": tokenizer.decode(ids, skip_special_tokens=True)}


def template_cases():
    """`folder` (its own template) or `template` (a file of chat_templates/) with its bos and eos."""
    sources = [({"folder": f}, AutoTokenizer.from_pretrained(TESTDATA / f)) for f in TOKENIZERS.values()]
    for name, bos, eos in TEMPLATES:
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(TESTDATA / "tiny-llama" / "tokenizer.json"), bos_token=bos, eos_token=eos)
        tokenizer.chat_template = (TESTDATA / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
        sources.append(({"template": f"{name}.jinja", "bos": bos or "", "eos": eos or ""}, tokenizer))
    for source, tokenizer in sources:
        for messages in CONVERSATIONS:
            for generate in (False, True):
                case = {**source, "messages": messages, "add_generation_prompt": generate}
                try:
                    case["rendered"] = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
                except TemplateError as e:
                    case["error"] = str(e)
                yield case


if __name__ == "__main__":
    for name, folder in TOKENIZERS.items():
        tokenizer = AutoTokenizer.from_pretrained(TESTDATA / folder)
        dump(f"tokenizer_{name}", {"vocab_size": len(tokenizer)}, list(tokenizer_cases(tokenizer)))
    dump("chat_templates", {}, list(template_cases()))
