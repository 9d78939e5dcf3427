"""Takes llama-server's flags and starts our server with the golden model, for llama.cpp's own
tests."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bitnet_host.model.text import TextModel
from bitnet_host.run.pool import Pool
from bitnet_host.serve.run import check, listen, serve
from bitnet_host.serve.settings import Settings

sys.path.insert(0, str(Path(__file__).parents[1]))
from serving import quick_image

# templates that llama-server has under a name
_BUILT_IN = {
    "chatml": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
              "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "llama3": "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
              "{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
              "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "command-r": "{% for m in messages %}<|START_OF_TURN_TOKEN|>"
                 "{{ {'user': '<|USER_TOKEN|>', 'assistant': '<|CHATBOT_TOKEN|>'}.get(m.role, "
                 "'<|SYSTEM_TOKEN|>') }}{{ m.content | trim }}<|END_OF_TURN_TOKEN|>{% endfor %}"
                 "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
                 "{% endif %}",
}
_VALUES = ("alias", "tags", "chat-template", "chat-template-file", "reasoning", "cors-origins",
           "tools", "api-key", "host")
_NUMBERS = {"port": 8080, "temp": 0.8, "seed": -1, "ctx-size": 0, "parallel": 1, "n-predict": -1}
_FLAGS = ("metrics", "slots", "no-slots", "verbose", "kv-unified", "no-ui")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in _VALUES:
        parser.add_argument(f"--{name}")
    for name, default in _NUMBERS.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    for name in _FLAGS:
        parser.add_argument(f"--{name}", action="store_true")
    return parser.parse_known_args()[0]


def _template(given: argparse.Namespace) -> str | None:
    if given.chat_template_file:
        return Path(given.chat_template_file).read_text()
    return _BUILT_IN.get(given.chat_template, given.chat_template)


def _settings(given: argparse.Namespace) -> Settings:
    origins = given.cors_origins or ("localhost" if given.tools else "")
    return Settings(
        host=given.host or "127.0.0.1", port=given.port,
        names=tuple(sorted((given.alias or "model").split(","))),
        tags=tuple(given.tags.split(",")) if given.tags else (),
        keys=(given.api_key,) if given.api_key else (),
        origins=(origins,) if origins else (),
        slots_route=not given.no_slots, metrics_route=given.metrics, verbose=given.verbose,
        thinking=given.reasoning != "off", model_path="bundled",
        ui="none" if given.no_ui else "llama",
        defaults={"temperature": given.temp, "seed": given.seed, "max_tokens": given.n_predict})


def main() -> None:
    given = _arguments()
    settings = _settings(given)
    check(settings)
    with listen(settings) as listener:
        image = quick_image(given.ctx_size // (1 if given.kv_unified else given.parallel) or 256)
        text = TextModel(image, _template(given))
        pool = Pool(["reference"], image, given.parallel)
        try:
            serve(pool, text, settings, listener)
        finally:
            pool.close()


if __name__ == "__main__":
    main()
