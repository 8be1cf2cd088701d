"""What the application of the starting report puts around a prompt: memories, or a long history.

It sent ten memories of about 2,300 tokens with glm-4.6, and later a history that made the prompt of
glm-4-flash longer than 8K tokens. Each request's text begins with its own number: the service keeps
the beginnings of prompts it has seen, and a prompt that was there before would be read for nothing.
"""

from __future__ import annotations

from typing import Any

Message = dict[str, Any]

_MEMORIES = 10
_TURNS = 22
_FACTS = (
    "用户在做一个面向企业内部的智能助手，希望回答先给结论，再给理由，少用套话。",
    "用户以前问过监督学习和无监督学习的区别，当时用销量预测和客户分群各举了一个例子。",
    "用户的团队使用 Rust 编写服务端，前端通过事件流逐字显示回答，很在意首字出现的时间。",
    "用户说过他们的数据存放在自己的机房里，不能把原始记录发送到外部，只能发送摘要。",
    "用户更喜欢用表格比较不同的方案，每一行写清楚适用的场景、代价和容易出错的地方。",
    "用户上周读完了一本关于统计学习的书，对交叉验证和正则化还有一些疑问没有解决。",
    "用户请助手记住：项目代号叫“潮汐”，第一版在年底之前交付，第二版再考虑多语言。",
)
_QUESTIONS = (
    "那损失函数应该怎么选？我们的数据里有不少异常值，能不能举一个具体的例子说明一下？",
    "如果训练集很小，有什么办法可以避免过拟合？请按照实施的难易程度排列出来。",
    "怎样向不懂技术的同事解释什么是特征？最好不要出现公式，用生活里的事情打比方。",
)


def memories(number: int) -> list[Message]:
    """Ten memories as a system message: about 2,300 tokens."""
    lines = [f"以下是第 {number} 次会话检索到的记忆："]
    for index in range(_MEMORIES):
        facts = (_FACTS[(index + step) % len(_FACTS)] for step in range(10))
        lines.append(f"{index + 1}. {''.join(facts)}")
    return [{"role": "system", "content": "\n".join(lines)}]


def history(number: int) -> list[Message]:
    """A long conversation before the prompt: about 9,000 tokens."""
    found: list[Message] = [{"role": "system", "content": f"这是第 {number} 次会话。"}]
    for turn in range(_TURNS):
        facts = (_FACTS[(turn + step) % len(_FACTS)] for step in range(16))
        found.append({"role": "user", "content": _QUESTIONS[turn % len(_QUESTIONS)]})
        found.append({"role": "assistant", "content": "".join(facts)})
    return found
