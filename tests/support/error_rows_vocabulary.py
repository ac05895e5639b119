"""Errors in ids that stay of a vocabulary."""

from __future__ import annotations

from tests.support.error_row import Row

ROWS: dict[str, list[Row]] = {
    "Vocabulary": [
        Row(
            "a vocabulary of a model without one",
            "vocabulary good.onnx ids.txt",
            "no input is looked up in a table",
            "a vocabulary is what a Gather on a weight reads ids for",
        ),
        Row(
            "a vocabulary without an unknown word",
            "vocabulary words.onnx ids.txt",
            "nothing says which id dropped ones are taken for",
            "give --unknown 0, an id that is kept",
        ),
        Row(
            "an unknown word that is dropped",
            "vocabulary words.onnx ids.txt --unknown 3",
            "the unknown id 3 is not kept",
            "keep it, or name another with --unknown",
        ),
        Row(
            "an id beyond the vocabulary",
            "vocabulary words.onnx far.txt",
            "id 99 is none of the 32 of the vocabulary",
            "the ids that stay are those of the model's tokenizer",
        ),
        Row(
            "a word in place of an id",
            "vocabulary words.onnx no-ids.txt",
            "no-ids.txt: line 1 is no id: 'cat'",
            "one id a line, say 1047",
        ),
        Row(
            "an empty vocabulary", "vocabulary words.onnx nothing.txt", "no id stays", "list those that do, one a line"
        ),
        Row(
            "a limit of listed ids",
            "vocabulary words.onnx ids.txt --tokens 9",
            "tokens limits ids that are counted, and these are listed",
            "leave --tokens away",
        ),
    ]
}
