"""Chat templates, against transformers on the same folder."""

from typing import Any

import pytest
from transformers import AutoTokenizer

from mesh.errors import Code, MeshError
from services.tokenizer.chat import ChatTemplate, Message
from services.tokenizer.checkpoint import Checkpoint, CheckpointError
from services.tokenizer.codec import Codec

from .conftest import CHATML, MakeFolder

LLAMA3 = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<s>system\\n\\nToday: " + strftime_now("%d %b %Y") + "\\n" + system_message + "</s>" }}
{%- if tools is not none %}{{ tools | tojson }}{% endif %}
{%- for message in messages %}
    {{- '<s>' + message['role'] + '\\n\\n' + message['content'] | trim + '</s>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<s>assistant\\n\\n' }}{%- endif %}
"""
MISTRAL = """{%- set ns = namespace(turns=0) -%}
{{ bos_token }}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
    {% endif %}
    {% set ns.turns = ns.turns + 1 %}
    {% if message['role'] == 'user' %}
        {{- '[INST] ' + message['content'] + ' [/INST]' }}
    {% else %}
        {% generation %}{{- message['content'] + eos_token }}{% endgeneration %}
    {% endif %}
{% endfor %}
"""
JSON = """{% for message in messages %}
  {% if loop.index > 3 %}{% break %}{% endif %}
  {% if message.role == 'tool' %}{% continue %}{% endif %}
{{ message | tojson(indent=2) }}
{% endfor %}"""
CHATS = [
    [("user", "Who is <b>Zoë</b> & '日本'?")],
    [("user", " hi "), ("assistant", "Hello!\n"), ("user", "And\n\nthen 😀?")],
    [("system", "Be brief."), ("user", "hi"), ("assistant", "yes"), ("user", "more")],
    [("user", "a"), ("tool", "4"), ("assistant", "b"), ("user", "c"), ("user", "d")],
]


@pytest.mark.parametrize("chat", CHATS, ids=range(len(CHATS)))
@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize(
    "template", [CHATML, LLAMA3, MISTRAL, JSON], ids=["chatml", "llama3", "mistral", "json"]
)
def test_text_and_ids_equal_those_of_transformers(
    make_folder: MakeFolder, template: str, chat: list[tuple[str, str]], prompt: bool
) -> None:
    """What transformers renders we render, and what it refuses we refuse with its words."""
    folder = make_folder(chat_template=template, tokenizer_class="PreTrainedTokenizerFast")
    theirs = AutoTokenizer.from_pretrained(folder)
    checkpoint = Checkpoint.read(str(folder))
    messages = [Message(role, content) for role, content in chat]

    def ours() -> str:
        return ChatTemplate.of(checkpoint).render(messages, add_generation_prompt=prompt)

    expected: Any = [{"role": role, "content": content} for role, content in chat]
    given = {"add_generation_prompt": prompt}
    try:
        text = theirs.apply_chat_template(expected, tokenize=False, **given)
    except Exception as error:  # jinja2's, raised by the template
        with pytest.raises(MeshError, match="Roles must alternate") as caught:
            ours()
        assert "Roles must alternate" in str(error)
        assert (caught.value.code, caught.value.field) == (Code.INVALID_ARGUMENT, "messages")
        return
    assert ours() == text
    ids = theirs.apply_chat_template(expected, tokenize=True, return_dict=False, **given)
    assert Codec(checkpoint).encode([text], add_special_tokens=False) == [ids]


def test_a_template_that_fails_is_the_messages_fault() -> None:
    """Nothing of the failure's own text leaks."""
    template = ChatTemplate("{{ messages[0].content + messages[7].content }}", {})
    with pytest.raises(MeshError, match="cannot show messages") as caught:
        template.render([Message("user", "secret")], add_generation_prompt=False)
    assert caught.value.field == "messages"
    assert "secret" not in caught.value.message


def test_a_template_reaches_no_python() -> None:
    """The sandbox refuses what leads out of it."""
    template = ChatTemplate("{{ messages.append(1) }}{{ ''.__class__.__mro__ }}", {})
    with pytest.raises(MeshError, match="cannot show messages"):
        template.render([Message("user", "x")], add_generation_prompt=False)


def test_no_template_is_a_failed_precondition() -> None:
    """A base model says that it takes no messages."""
    template = ChatTemplate(None, {})
    assert not template.exists
    with pytest.raises(MeshError, match="no chat template") as caught:
        template.render([Message("user", "x")], add_generation_prompt=False)
    assert caught.value.code is Code.FAILED_PRECONDITION


def test_no_messages_and_unknown_roles_are_named() -> None:
    """The field at fault is the one that the caller wrote."""
    template = ChatTemplate(CHATML, {})
    with pytest.raises(MeshError) as caught:
        template.render([], add_generation_prompt=True)
    assert caught.value.field == "messages"
    with pytest.raises(MeshError, match="must be one of system") as caught:
        template.render([Message("user", "a"), Message("robot", "b")], add_generation_prompt=True)
    assert caught.value.field == "messages[1].role"


def test_developer_is_system_and_names_are_passed_on() -> None:
    """Templates know `system` only; a name appears only where one was given."""
    template = ChatTemplate(JSON, {})
    messages = [Message("developer", "a"), Message("user", "b", "Ann")]
    text = template.render(messages, add_generation_prompt=False)
    assert '"role": "system"' in text
    assert text.count('"name": "Ann"') == text.count('"name"') == 1


def test_a_template_with_a_syntax_error_is_refused_at_the_start() -> None:
    """The error names the line."""
    with pytest.raises(CheckpointError, match="line 2"):
        ChatTemplate("\n{% if %}", {})
