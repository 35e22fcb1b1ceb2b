"""Chat templates as models have them: each turn reaches the text that is scored, or the template is refused."""

import pytest

from reward_service.backends.chat_template import ChatTemplate
from reward_service.errors import ConfigError, EmptyInput
from reward_service.rewards.reading import check_template
from reward_service.specs import RegressorSpec
from tests.small_models import CHATML, small_tokenizer

CHAT = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "So."}]
PARTS = "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
TURNS = "{% for m in messages %}{{ m.content }}{% endfor %}"


def template(text, **settings):
    tokenizer = small_tokenizer()
    tokenizer.chat_template = text
    return ChatTemplate(tokenizer, **settings)


def refusal(text, **arguments):
    with pytest.raises(ConfigError) as caught:
        check_template("judge", RegressorSpec(model="./rm", input="chat"), template(text, arguments=arguments))
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"{{% for m in messages %}}{{% if m.role == 'user' %}}{PARTS}{{% else %}}{{{{ m.content }}}}{{% endif %}}"
        "{% endfor %}",
        f"{{% for m in messages %}}{{% if m.role == 'user' %}}{PARTS}{{% else %}}{{{{ '' + m.content }}}}{{% endif %}}"
        "{% endfor %}",
        f"{{% for m in messages %}}{{% if m.role == 'assistant' %}}{PARTS}{{% else %}}{{{{ m.content }}}}{{% endif %}}"
        "{% endfor %}",
        f"{{% for m in messages %}}{PARTS}{{% endfor %}}",
        TURNS,
    ],
    ids=["user", "user, strict", "assistant", "both", "none"],
)
def test_roles_with_parts(text):
    """A template may read one role's content as parts and another's as a string: each role gets its own form."""
    assert template(text).render(CHAT) == "What?So."


@pytest.mark.parametrize("beginning", ["\n\n", "  ", "{#- c -#}\n", ""])
def test_clock_keeps_text(beginning):
    """The fixed date changes nothing else of a template: not its beginning, and not a percent sign."""
    text = template(f"{beginning}{{{{ strftime_now('%Y, 100%%') }}}}{TURNS}").render(CHAT)
    plain = template(f"{beginning}2024, 100%{TURNS}").render(CHAT)
    assert text == plain


def test_clock_in_arguments():
    """A template that the configuration names has the fixed date, too."""
    named = template(
        {"default": CHATML, "dated": "{{ strftime_now('%Y') }}" + TURNS}, arguments={"chat_template": "dated"}
    )
    assert named.render(CHAT) == "2024What?So."
    given = template(CHATML, arguments={"chat_template": "{{ strftime_now('%Y') }}" + TURNS})
    assert given.render(CHAT) == "2024What?So."
    assert given.reading == named.reading == ", on 2024-07-26"


def test_generation_block():
    """A template that marks what the assistant generates writes the same text as without the marks."""
    marked = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    assert template(marked).render(CHAT) == "What?So."


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("{% for m in messages %}{{ m.content }", {}, "is broken (unexpected '}'); save the one there"),
        ("{{ range(10**5) | random }}" + TURNS, {}, "writes the same conversation another way each time"),
        ("{{ messages[0].content }}", {}, "leaves out what the assistant says"),
        (TURNS, {"tokenize": True}, "has no argument 'tokenize'; leave it out of template_args"),
    ],
)
def test_refused_templates(text, arguments, message):
    """A template with which no conversation can be scored is refused at the start, with the reward's name."""
    assert f"rewards.judge: the chat template of ./rm {message}" in refusal(text, **arguments)


@pytest.mark.parametrize("name", ["gemma", "phi3", "qwen2_5", "llama3", "gemma3"])
def test_null_content(name):
    """A turn without content, such as a tool call, writes no word None: it is empty, or refused by the template."""
    turns = [CHAT[0], {"role": "assistant", "content": None}, *CHAT]
    chat = ChatTemplate(small_tokenizer(name))
    assert chat.render(turns) == chat.render([CHAT[0], {"role": "assistant", "content": ""}, *CHAT])
    assert "None" not in chat.render(turns)
    with_tool = [*turns[:2], {"role": "tool", "content": "{}"}, CHAT[1]]
    if name == "gemma":
        with pytest.raises(EmptyInput, match="refuses this conversation"):
            chat.render(with_tool)


def test_two_user_turns():
    """Two user turns in a row are refused with the template's own reason, and not joined."""
    turns = [CHAT[0], *CHAT]
    with pytest.raises(EmptyInput, match="refuses this conversation: Conversation roles must alternate"):
        ChatTemplate(small_tokenizer("gemma")).render(turns)
    assert template(TURNS).render(turns) == "What?What?So."


@pytest.mark.parametrize("name", ["chat_template", "tokenize", "messages"])
def test_reserved_arguments(name):
    """A request may pass arguments to a template, and not another template."""
    with pytest.raises(EmptyInput, match=f"`chat_template_kwargs` holds '{name}'"):
        template(TURNS).render(CHAT, arguments={name: "hello"})
