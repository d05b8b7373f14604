#!/usr/bin/env python3
"""Write the vectors that sentence-transformers gives for hard texts: the fixture of the embed tests.

    PYTHON scripts/reference_vectors.py MODEL_DIR > agent/embed/tests/fixtures/reference.jsonl

PYTHON is the one of the folder that scripts/bench_venv.sh makes, MODEL_DIR the one of scripts/model.sh. Nothing is
fetched. The first line says which versions made the rest; each other line is a text, a note and its vector, with
floats rounded to 7 significant digits (float32 has no more).
"""
import json
import os
import platform
import sys

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", CUDA_VISIBLE_DEVICES="")

WORDS = "the tide took the long path home while seven old boats waited quietly beside a wall of warm stone".split()


def words(count):
    return " ".join(WORDS[i * 7 % len(WORDS)] for i in range(count))


TEXTS = [
    ("one word", "tide"),
    ("one letter", "a"),
    ("empty", ""),
    ("one blank", " "),
    ("white space only", " \t\r\n  \u00a0\u2003 "),
    ("a sentence", "A member submits a job, and the best bid wins."),
    ("the same in capitals, with marks and accents", "A MÉMBER SUBMITS À JOB, and the bést BID wins!?!"),
    ("German", "Die Waschmaschine im Gemeinschaftsraum läuft schon wieder, und niemand weiß, wer sie gefüllt hat."),
    ("French", "L'été dernier, nous avons prêté nos ordinateurs à la coopérative d'à côté."),
    ("Vietnamese, many marks", "Mỗi thiết bị đặt giá cho công việc, và kết quả được ký tên."),
    ("Turkish dotted capitals", "İSTANBUL'DA IŞIK İÇİNDE IĞDIR"),
    ("Greek", "Η παλίρροια πήρε τον μακρύ δρόμο για το σπίτι."),
    ("Russian", "Семь старых лодок тихо ждали у тёплой каменной стены."),
    ("Arabic", "تنتظر القوارب القديمة بهدوء بجانب الجدار الحجري الدافئ."),
    ("Hebrew with points", "הַסִּירוֹת הַיְּשָׁנוֹת מַמְתִּינוֹת בְּשֶׁקֶט"),
    ("Hindi", "सात पुरानी नावें पत्थर की दीवार के पास चुपचाप इंतज़ार कर रही थीं।"),
    ("Thai, no blanks", "เรือเก่าเจ็ดลำรออยู่เงียบๆข้างกำแพงหิน"),
    ("Chinese", "七艘旧船静静地停在温暖的石墙旁边。"),
    ("Japanese", "古い船が七隻、暖かい石の壁のそばで静かに待っていた。ﾊﾝｶｸもある。"),
    ("Korean", "낡은 배 일곱 척이 따뜻한 돌담 옆에서 조용히 기다렸다."),
    ("emoji, with joiners, flags and skin tones", "great 👍🏽 work 👩‍👩‍👧‍👦 from 🇩🇪 and 🏴\u200d☠️ 🙂🙂🙂"),
    ("markup", "<p class=\"x\">Seven <b>old</b> boats &amp; one <a href='/quay?id=7#top'>quay</a></p><!-- tide -->"),
    ("JSON", '{"kind": "embed", "text": ["hello", null, 1.5e-7], "cost_mana": "0.25"}'),
    ("code", "fn main() {\n\tlet x: Vec<u8> = vec![0x2f; 1 << 4];\n\tprintln!(\"{x:?}\"); // done\n}"),
    ("control characters", "bell\u0007 null\u0000 escape\u001b[31mred\u001b[0m delete\u007f next\u0085line"),
    ("zero width, direction marks, soft hyphen, byte order mark", "\ufeffzero\u200bwidth\u200e marks\u202e soft\u00adhyphen"),
    ("decomposed and composed accents", "cafe\u0301 café nai\u0308ve naïve"),
    ("private use and unassigned", "x \ue000 \uf8ff \U000f0000 \U0010ffff y"),
    ("special tokens in the text", "[CLS] the [MASK] of the [SEP] is [PAD] and [UNK]"),
    ("numbers and units", "3.141592653 -17e99 1,000,000.00 € 25 °C ½ ² Ⅷ ①"),
    ("address-like", "Contact: quay-7@harbour.example, see https://harbour.example/a/b?c=d&e=%20f#g or call +00 123 456"),
    ("a word of 100 letters, the longest that is looked up", "ab" * 50),
    ("a word of 101 letters", "ab" * 50 + "c"),
    ("a word of 10,000 letters", "quay" * 2500),
    ("254 words of one token each: exactly full", " ".join(["tide"] * 254)),
    ("255 words of one token each: cut by one", " ".join(["tide"] * 255)),
    ("60 words", words(60)),
    ("200 words", words(200)),
    ("600 words", words(600)),
    ("400 marks without blanks", "!?" * 200),
]


def main():
    import sentence_transformers
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer

    if len(sys.argv) != 2:
        sys.exit(__doc__)
    model = SentenceTransformer(sys.argv[1], device="cpu")
    vectors = model.encode([text for _, text in TEXTS], convert_to_numpy=True, show_progress_bar=False)
    made_with = {
        "sentence-transformers": sentence_transformers.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "max_seq_length": model.max_seq_length,
    }
    print(json.dumps({"model": "all-MiniLM-L6-v2", "made_with": made_with}))
    for (note, text), vector in zip(TEXTS, vectors):
        print(json.dumps({"note": note, "text": text, "vector": [float(f"{x:.7g}") for x in vector.tolist()]}))


if __name__ == "__main__":
    main()
