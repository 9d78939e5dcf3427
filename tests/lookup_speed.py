"""What guesses from the conversation's own text cost and bring, on the bundled model and the
simulated board: the table of docs/lookup.md.

    python tests/lookup_speed.py [--tokens N]
"""

from __future__ import annotations

import argparse

from bitnet_host import TextModel, open_board, open_model
from bitnet_host.bench.measure import bench_words
from bitnet_host.run.board import BoardTarget
from bitnet_host.run.target import Answer

STORY = ("Once upon a time there was a little cat named Tim. Tim liked to play in the park. One "
         "day Tim found a big red ball. He was so happy. He ran home to show his mom.")
CHATS = {
    "a story": "Tell me a story about a dog and a ball.",
    "another story": "Tell me a story about a girl who lost her hat.",
    "a summary": f"Summarize: {STORY}",
    "an edit": f"{STORY} Write this again with a dog in place of the cat.",
}


def _answer(board: BoardTarget, prompt: list[int], tokens: int, lookup: bool) -> Answer:
    board.board.lookup = lookup
    board.reset()
    return board.generate(prompt, tokens)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--tokens", type=int, default=100)
    tokens = options.parse_args().tokens
    image = open_model()
    text = TextModel(image)
    # nine tokens, in which nothing is guessed: what keeping the table takes
    tasks = {"words that do not repeat": ([0, *bench_words(image)[:62]], 9)}
    for name, said in CHATS.items():
        tasks[name] = text.encode_chat([{"role": "user", "content": said}])[1], tokens
    print("| task | tokens | cycles per token without | with | guessed | right | speed |")
    print("|---|---|---|---|---|---|---|")
    with open_board("sim", image) as board:
        assert isinstance(board, BoardTarget)
        for name, (prompt, most) in tasks.items():
            plain, guessed = (_answer(board, prompt, most, lookup) for lookup in (False, True))
            assert plain.token_ids == guessed.token_ids
            before, after = (answer.decode_cycles_per_token or 0 for answer in (plain, guessed))
            print(f"| {name} | {len(plain.token_ids)} | {before:,.0f} | {after:,.0f} "
                  f"| {guessed.drafted_tokens} | {guessed.accepted_tokens} "
                  f"| {before / after:.2f} |", flush=True)


if __name__ == "__main__":
    main()
