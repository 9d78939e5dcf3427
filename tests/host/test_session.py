"""Sessions on the golden model: prefix reuse, a full context, stop strings, cancels, threads, and
what is sampled."""

from __future__ import annotations

import dataclasses
import math
import threading

import numpy as np
import pytest
from bitnet_host import (
    BadArgument,
    Cancel,
    OutOfContext,
    Sampling,
    Session,
    TextModel,
    open_board,
    open_model,
)
from bitnet_host.model.text import TextStream
from bitnet_host.run.sampling import Sampler


@pytest.fixture(scope="module")
def image():
    return open_model()


@pytest.fixture
def target(image):
    with open_board("reference", image) as target:
        yield target


def _user(text):
    return {"role": "user", "content": text}


def test_the_second_turn_reads_only_what_is_new(target, monkeypatch):
    session, read = Session(target), []
    advance = target._model.advance
    monkeypatch.setattr(target._model, "advance",
                        lambda token: read.append(token) or advance(token))
    messages = [_user("Who are you?")]
    first = session.chat(messages, max_tokens=100).reply
    assert first.stop_reason == "stop" and first.usage.cached == 0
    stop = first.answer.token_ids[-1]
    messages += [{"role": "assistant", "content": first.text}, _user("Hello!")]
    before = len(read)
    second = session.chat(messages, max_tokens=3).reply
    assert second.usage.cached == first.usage.prompt + first.usage.completion - 1
    assert read[before:].count(stop) == 2, ("the stop token after the answer, and that of the new "
                                            "message")
    assert len(read) - before == second.usage.prompt - second.usage.cached + 2
    # the same words from an empty cache
    target.reset()
    assert Session(target).chat(messages, max_tokens=3).reply.text == second.text


def test_sessions_share_what_they_have_in_common(target):
    system = {"role": "system", "content": "You tell stories."}
    one, two = Session(target), Session(target)
    first = one.chat([system, _user("Hello!")], max_tokens=2).reply
    second = two.chat([system, _user("Who are you?")], max_tokens=2).reply
    assert 0 < second.usage.cached < first.usage.prompt
    again = two.chat([system, _user("Who are you?")], max_tokens=2).reply
    assert again.usage.cached == again.usage.prompt - 1 and again.text == second.text


def test_a_full_context_drops_the_oldest_turns_and_says_so(target):
    session, messages = Session(target), [{"role": "system", "content": "You tell stories."}]
    dropped = 0
    for turn in range(5):
        messages.append(_user(f"Tell me a long story about a cat and {turn} dogs. "
                              + "And about a bird in a tree. " * 5))
        reply = session.chat(messages, max_tokens=16).reply
        assert reply.text
        dropped += reply.dropped
        kept = messages[:1] + messages[1 + reply.dropped:]
        assert [m["role"] for m in kept[:2]] == ["system", "user"]
        messages = [*kept, {"role": "assistant", "content": reply.text}]
    assert dropped and dropped % 2 == 0


def test_what_cannot_fit_is_refused_by_name(target):
    session = Session(target)
    with pytest.raises(OutOfContext, match=r"the message is too long: .* of 256: shorten"):
        session.chat([_user("word " * 280)])
    with pytest.raises(OutOfContext, match="the system prompt alone is too long"):
        session.chat([{"role": "system", "content": "word " * 280}, _user("Hi")])
    with pytest.raises(OutOfContext, match="characters is longer"):
        session.chat([_user("x" * 30_000_000)])


def test_an_answer_to_the_end_of_the_context(target):
    ids = [5] * (target.image.header.context - 4)
    reply = Session(target).complete(ids, max_tokens=100).reply
    assert reply.stop_reason in ("context", "stop") and reply.usage.completion <= 5
    with pytest.raises(OutOfContext):
        _ = Session(target).complete([5] * 257).reply


def test_stop_strings(target):
    session = Session(target)
    whole = session.chat([_user("Tell me a story about a dog.")], max_tokens=20).reply.text
    assert whole.startswith("Once upon a time, there was")
    tokens = list(session.chat([_user("Tell me a story about a dog.")],
                               stop=["nowhere", ", there"]))
    assert "".join(token.text for token in tokens) == "Once upon a time"
    with pytest.raises(BadArgument, match="stop string is empty"):
        _ = session.complete("x", stop=[""]).reply


def test_a_cancel_counts_before_the_call_and_for_it_only(target):
    session, cancel = Session(target), Cancel()
    cancel.set()
    reply = session.chat([_user("Hello!")], cancel=cancel).reply
    assert reply.stop_reason == "cancel" and not reply.text and target.position == 0
    assert (session.chat([_user("Hello!")], max_tokens=2, cancel=Cancel()).reply.stop_reason
            == "length")
    sampled = session.chat([_user("Hello!")], cancel=cancel,
                           sampling=Sampling(temperature=1.0)).reply
    assert sampled.stop_reason == "cancel" and not sampled.text


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, seed=1)])
def test_a_cancel_within_an_answer(target, sampling):
    cancel = Cancel()
    stream = Session(target).chat([_user("Tell me a story about a dog.")], sampling=sampling,
                                  cancel=cancel)
    for number, _ in enumerate(stream):
        if number == 2:
            cancel.set()
    assert stream.reply.stop_reason == "cancel" and stream.reply.usage.completion == 3


def test_leaving_the_loop_frees_the_target(target):
    session = Session(target)
    for token in session.chat([_user("Hello!")]):
        assert token.id >= 0
        break
    stream = session.chat([_user("Hello!")])
    iterator = iter(stream)
    next(iterator)
    stream.close()
    assert session.chat([_user("Hello!")], max_tokens=1).reply.usage.completion == 1
    with pytest.raises(BadArgument, match="given up"):
        _ = stream.reply


def test_threads_wait_for_each_other(target):
    expected = {text: Session(target).chat([_user(text)], max_tokens=6).reply.text
                for text in ("Hello!", "Who are you?", "Bye!")}
    got = {}

    def ask(text):
        got[text] = Session(target).chat([_user(text)], max_tokens=6).reply.text

    threads = [threading.Thread(target=ask, args=(text,)) for text in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == expected


def test_a_batch(target):
    replies = list(Session(target).batch(["Once upon", [_user("Hello!")], [0, 423]], max_tokens=2))
    assert [reply.usage.completion for reply in replies] == [2, 2, 2]


def test_control_tokens_that_a_user_types_are_text(image):
    text = TextModel(image)
    stop = text.token_text(2)
    plain, ids = text.encode_chat([_user("Hi")])
    typed = text.encode_chat([_user(f"Hi{stop}\ue000")])[1]
    meant = text.encode_chat([_user(f"Hi{stop}")], control=True)[1]
    assert typed.count(2) == ids.count(2) and meant.count(2) == ids.count(2) + 1
    assert text.encode_raw(f"{stop}").count(2) == 1
    # without control tokens in messages the ids are those of the rendered text as a whole
    assert ids == text.encode_rendered(plain, start=True)


def test_one_bos(image):
    text = TextModel(image)
    assert (text.encode_chat([_user("Hi")])[1].count(0) == 1
            and text.encode_chat([_user("Hi")])[1][0] == 0)
    assert text.encode_raw("Hi")[0] == 0
    assert (text.encode_rendered("Hi", start=True)[0] == 0
            and text.encode_rendered("Hi", start=False)[0] != 0)


def test_unfinished_characters_are_held_back(image):
    text = TextModel(image)
    ids, shown = text._tokenizer.encode("a€ü", add_special_tokens=False).ids, []
    stream = TextStream(text)
    for token in ids:
        shown.append(stream.add(token))
    assert len(ids) > 3 and "".join(shown) == "a€ü" and not any("\ufffd" in part for part in shown)
    cut = TextStream(text)
    parts = [cut.add(token) for token in ids[:-1]]
    assert "\ufffd" not in "".join(parts) and cut.finish() == "\ufffd"


# -- sampling --------------------------------------------------------------------------------------

_TOKENS, _LOGITS = list(range(10, 20)), [3.0, 2.5, 2.0, 1.0, 0.5, 0.0, -1.0, -2.0, -3.0, -4.0]


def _shares(sampling, draws=4000):
    sampler = Sampler(sampling)
    counts = np.bincount([sampler._draw(sorted(((sampler._changed(t, x), t)
                                                for t, x in zip(_TOKENS, _LOGITS, strict=True)),
                                               key=lambda pair: (-pair[0], pair[1])))[0]
                          for _ in range(draws)], minlength=20)
    return counts[10:] / draws


def _expected(logits, kept):
    p = np.exp(np.array(logits))
    p[[i for i in range(len(p)) if i not in kept]] = 0
    return p / p.sum()


@pytest.mark.parametrize("sampling,logits,kept", [
    (Sampling(1.0, seed=1), _LOGITS, range(10)),
    (Sampling(0.5, seed=1), [2 * x for x in _LOGITS], range(10)),
    (Sampling(1.0, top_k=3, seed=1), _LOGITS, range(3)),
    (Sampling(1.0, top_p=0.5, seed=1), _LOGITS, range(2)),
    (Sampling(1.0, min_p=0.3, seed=1), _LOGITS, range(3)),
    (Sampling(1.0,
              logit_bias={15: 5.0,
                          10: -100}, seed=1), [-97.0, *_LOGITS[1:5], 5.0, *_LOGITS[6:]], range(10)),
])
def test_shares_of_what_is_drawn(sampling, logits, kept):
    np.testing.assert_allclose(_shares(sampling), _expected(logits, kept), atol=0.03)


def test_sixty_four_candidates(target):
    """Of the full head as many, of the screened one as many as its sketch leaves; fewer if top_k
    says so."""
    for sampling, count in ((Sampling(1.0, full_head=True), 64), (Sampling(1.0), 63),
                            (Sampling(1.0, top_k=5), 5),
                            (Sampling(1.0, top_k=5, logprobs=9), 9),
                            (Sampling(1.0, top_k=5, presence_penalty=1.0), 63)):
        target.reset()
        _, (tokens, logits) = target._candidates([0, 807], sampling, Cancel(), lambda *_: None)
        assert (len(tokens) == len(set(tokens)) == len(logits) == count
                and logits == sorted(logits, reverse=True))


def test_penalties():
    sampler = Sampler(Sampling(repetition_penalty=2.0), [10, 19])
    assert ([sampler._changed(t, x) for t, x in ((10, 3.0), (11, 2.5), (19, -4.0))]
            == [1.5, 2.5, -8.0])
    sampler = Sampler(Sampling(presence_penalty=0.5, frequency_penalty=0.25), [10])
    for _ in range(2):
        sampler._said[11] += 1
    assert sampler._changed(10, 3.0) == 3.0 and sampler._changed(11, 2.5) == 2.5 - 0.5 - 2 * 0.25
    # greedy, with a penalty: the best token gives way once it was said
    sampler = Sampler(Sampling(presence_penalty=0.6))
    assert [sampler.choose(_TOKENS, _LOGITS).token for _ in range(3)] == [10, 11, 10]


def test_logprobs():
    choice = Sampler(Sampling(logprobs=2)).choose(_TOKENS, _LOGITS)
    whole = math.log(sum(math.exp(x) for x in _LOGITS))
    assert choice.token == 10 and choice.logprob == pytest.approx(3.0 - whole)
    assert ([a.token for a in choice.alternatives] == [10, 11]
            and choice.alternatives[1].logprob == pytest.approx(2.5 - whole))


def test_seeds():
    def words(seed):
        sampler = Sampler(Sampling(1.5, seed=seed))
        return [sampler.choose(_TOKENS, _LOGITS).token for _ in range(20)]

    assert words(1) == words(1) != words(2) and words(None) != words(None)


def test_sampling_as_the_model_asks(image):
    """The bundled generation_config.json: do_sample, temperature 0.6, top_p 0.9."""
    assert Sampling.of_model(image, seed=3) == Sampling(0.6, top_p=0.9, seed=3)
    image = dataclasses.replace(image,
                                meta=image.meta
                                | {"defaults": {"do_sample": True, "top_k": 5000,
                                                "temperature": None}})
    assert Sampling.of_model(image) == Sampling(1.0, top_k=64)
    for defaults in ({"temperature": 0.6}, None):
        assert Sampling.of_model(dataclasses.replace(image,
                                                     meta=image.meta
                                                     | {"defaults": defaults})).greedy


@pytest.mark.parametrize("values", [
    {"temperature": -1},
    {"temperature": math.nan}, {"temperature": 0.001}, {"temperature": True}, {"top_p": 0},
    {"top_k": 65},
    {"top_k": 1.5},
    {"min_p": 2},
    {"repetition_penalty": 0}, {"presence_penalty": 3}, {"frequency_penalty": -3}, {"seed": -1},
    {"logprobs": 21}, {"logit_bias": {1: 101}}, {"logit_bias": {"a": 1}}, {"temperature": "hot"},
])
def test_values_that_make_no_sense(values):
    with pytest.raises(BadArgument):
        Sampling(**values)


# -- what a fresh eye found ------------------------------------------------------------------------


def test_prepared_again_it_holds_nothing(target):
    session = Session(target)
    first = session.chat([_user("Who are you?")], max_tokens=8).reply
    target.prepare()
    assert target.position == 0
    again = session.chat([_user("Who are you?")], max_tokens=8).reply
    assert again.text == first.text and again.usage.cached == 0


def test_an_interrupted_pass_leaves_no_trace(target, monkeypatch):
    session, want = (Session(target),
                     Session(target).chat([_user("Hello!")], max_tokens=4).reply.text)
    target.reset()
    forward, advance = [], target._model.advance

    def interrupted(token):
        forward.append(token)
        x = advance(token)
        if len(forward) == 5:
            raise KeyboardInterrupt
        return x

    monkeypatch.setattr(target._model, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _ = session.chat([_user("Hello!")], max_tokens=4).reply
    assert session.chat([_user("Hello!")], max_tokens=4).reply.text == want


def test_calls_within_an_answer_are_refused_and_not_waited_for(target):
    session = Session(target)
    for _ in session.chat([_user("Hello!")], max_tokens=4):
        with pytest.raises(BadArgument, match="in the middle of an answer"):
            target.reset()
        break
    target.reset()
    with pytest.raises(RuntimeError):
        target.generate([5], 5, on_token=lambda token: (_ for _ in ()).throw(RuntimeError))
    target.reset()


def test_threads_may_share_a_tokenizer(image):
    text, stop = TextModel(image), "<|eot_id|>"
    want = {content: text.encode_chat([_user(content)])[1] for content in ("Hi", f"Hi{stop}")}
    wrong = []

    def encode(content):
        for _ in range(300):
            if text.encode_chat([_user(content)])[1] != want[content]:
                wrong.append(content)

    threads = [threading.Thread(target=encode, args=(content,)) for content in want
               for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_a_history_far_beyond_the_context(target):
    messages = [m
                for i in range(60)
                for m in (_user(f"Question {i}? " * 8),
                          {"role": "assistant", "content": "Answer. " * 10})]
    reply = Session(target).chat([{"role": "system", "content": "Be brief."}, *messages,
                                  _user("Hello!")], max_tokens=2).reply
    assert (reply.dropped > 100 and reply.kept[0]["role"] == "system"
            and reply.kept[-1]["content"] == "Hello!")
    assert len(reply.kept) + reply.dropped == 122


@pytest.mark.parametrize("messages", [
    [], [{}],
    [{"role": "user"}], [_user(None)], [_user(["Hi"])], [{"role": 3, "content": "x"}], ["Hi"],
])
def test_messages_that_are_none(target, messages):
    with pytest.raises(BadArgument):
        Session(target).chat(messages)


def test_control_tokens_in_a_role_are_text_too(image):
    text = TextModel(image)
    plain = text.encode_chat([_user("Hi")])[1].count(2)
    assert text.encode_chat([{"role": "user<|eot_id|>", "content": "Hi"}])[1].count(2) == plain


@pytest.mark.parametrize("prompt", [[1.5], [True], ["a"], [-1], [99999], []])
def test_token_ids_that_are_none(target, prompt):
    with pytest.raises(BadArgument):
        _ = Session(target).complete(prompt).reply


def test_one_stop_string(target):
    reply = Session(target).chat([_user("Tell me a story about a dog.")], stop="there").reply
    assert reply.text == "Once upon a time, "


@pytest.mark.parametrize("values", [{"top_k": 5, "logprobs": None}, {"logit_bias": [1]}])
def test_more_values_that_make_no_sense(values):
    with pytest.raises(BadArgument):
        Sampling(**values)
