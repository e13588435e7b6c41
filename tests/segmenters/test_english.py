"""The English word lists."""

from skipkv.segmenters import english


def test_lists_are_written_as_they_are_matched() -> None:
    for phrase in (*english.REFLECTION, *english.TRANSITION):
        assert phrase == phrase.lower().strip()
    for word in (*english.ABBREVIATIONS, *english.SENTENCE_STARTERS):
        assert word == word.lower()
        assert not word.endswith(".")
        assert " " not in word


def test_no_word_is_an_abbreviation_and_starts_sentences() -> None:
    assert not english.ABBREVIATIONS & english.SENTENCE_STARTERS


def test_words_that_often_end_a_sentence_are_no_abbreviations() -> None:
    assert not english.ABBREVIATIONS & {"no", "max", "min", "in", "iff", "so", "x"}
