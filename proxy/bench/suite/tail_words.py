"""The words of the report on the suite `tail`, in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.bench.suite.writing import COMMON, Words

_EN = {
    "title": "The slow few: a bimodal service, a slow one, one that is gone",
    "simulated": (
        "**The upstream is simulated.** No request left this machine. The first token comes after"
        " a time drawn from a log-normal distribution around 0.8 s (sigma 0.25) for 96 % of the"
        " requests and after 6 to 30 s for the others; one key may have 200 requests of a model in"
        " flight. Whoever asks again draws again: what makes a request slow is the service, not"
        " the prompt."
    ),
    "calibrated": (
        "**Calibrated on recorded figures** (notes on the API, `glm-api.md` §7; made into"
        " causes in `proxy/simulator/profiles.py`): published streams"
        " came after 0.6 to 1.1 s or after 3.6 to 8.4 s and hardly between, one call in dozens"
        " after more than a minute. The shape is recorded; the share of 4 % and the bounds are"
        " chosen."
    ),
    "cannot": (
        "**What it cannot prove:** how often the real service is slow, whether a second request"
        " beside a slow one is as quick as this one assumes, and what the attempts that lose are"
        " billed."
    ),
    "ways": (
        "direct and proxied are asked at the same moments by one client, in random order of"
        " arrival at a fixed mean rate whatever the answers take; every request opens a"
        " connection, with TLS on the direct way. The proxy runs `config/fast.yaml`. Requests of"
        " both ways draw the same waits in the same order"
    ),
    "phase_tail": "mostly quick",
    "phase_slow": "entirely slow (all 6 to 30 s)",
    "phase_down": "with an outage",
    "way_direct": "direct",
    "way_proxied": "proxied",
    "results": "First content",
    "results_heads": "phase;way;requests;complete;p50, s;p90, s;p99, s;attempts;extra",
    "results_note": (
        "Seconds of the simulated service, over complete answers. Attempts are counted in the"
        " proxy's access log: every request to the service, those that lost or failed too."
    ),
    "apart": (
        "The proxied median of the first phase is {apart:+.2f} ms from the direct one, in"
        " milliseconds of this machine: the time scale is not divided out, because what both wait"
        " for at the service is the same and cancels."
    ),
    "outage": "The service gone, and back",
    "outage_asked": (
        "It was gone for {seconds:.0f} s. {requests} requests were begun in that time; {attempts}"
        " attempts were made for them ({ratio:.2f} for each); {answered} were answered in the end."
        " Ends: {outcomes}."
    ),
    "outage_before": (
        "Before, {steady:.0f} requests a second came to the service, {steady_peak:.0f} in the"
        " busiest second. After it was back, {peak:.0f} came in the busiest second ({ratio:.2f} of"
        " the mean before)."
    ),
    "outage_back": (
        "The first request that was answered again was begun {first:.1f} s after it was back; the"
        " last that failed, {recovered:.1f} s after."
    ),
    "outage_client": (
        "The client does not repeat what failed; clients that do bring a herd of their own."
    ),
    "goal_p99": "mostly quick: p99 of first content, direct over proxied",
    "goal_p50": "mostly quick: median, proxied beyond direct",
    "goal_extra": "mostly quick: extra attempts",
    "goal_slow_extra": "entirely slow: extra attempts",
    "goal_slow_complete": "entirely slow: complete answers",
    "goal_slow_p50": "entirely slow: median, proxied over direct",
    "goal_down_attempts": "outage: attempts for each request",
    "goal_down_peak": "outage: busiest second after, over the mean before",
    "decisions": "What the proxy decided",
    "decisions_none": "The access log names no decisions.",
}

_ZH = {
    "title": "少数慢请求：双峰的服务、全面变慢的服务、中断的服务",
    "simulated": (
        "**上游是模拟的。** 没有任何请求离开本机。96% 的请求，首个 token 的时间取自 0.8 秒附近的对"
        "数正态分布（sigma 0.25）；其余 4% 要等 6 到 30 秒。每个 key 在每个模型上最多有 200 个在途"
        "请求。再问一次就重新抽一次：慢的原因在服务，不在提示词。"
    ),
    "calibrated": (
        "**按有记录的数据校准**（API 笔记 `glm-api.md` §7；换算成原因见"
        " `proxy/simulator/profiles.py`）："
        "公开的流式记录要么在 0.6 到 1.1 秒开始"
        "，要么在 3.6 到 8.4 秒开始，中间几乎没有；几十次调用里有一次超过一分钟。形状来自记录，4%"
        " 的比例和上下界是选定的。"
    ),
    "cannot": (
        "**它不能证明：** 真实服务多久慢一次；在慢请求旁边再发一个请求，是否真的像这里假设的那样快"
        "；以及落败的尝试怎样计费。"
    ),
    "ways": (
        "直连和经代理由同一个客户端在相同的时刻发出请求，到达时刻随机、平均速率固定，不受回答快慢"
        "影响；每个请求新建连接，直连时带 TLS。代理使用 `config/fast.yaml`。两条路径的请求按相同的"
        "顺序抽到相同的等待时间"
    ),
    "phase_tail": "大多很快",
    "phase_slow": "全面变慢（全部 6 到 30 秒）",
    "phase_down": "含一次中断",
    "way_direct": "直连",
    "way_proxied": "经代理",
    "results": "首个可见内容",
    "results_heads": "阶段;路径;请求数;完整回答;p50，秒;p90，秒;p99，秒;尝试次数;额外尝试",
    "results_note": (
        "模拟服务的秒数，只计完整的回答。尝试次数来自代理的访问日志：发往服务的每一个请求，落败的"
        "和失败的也算。"
    ),
    "apart": (
        "第一阶段里，经代理的中位数与直连相差 {apart:+.2f} 毫秒，这是本机的毫秒数：没有按时间比例"
        "还原，因为双方在服务端等待的时间相同，相减后抵消。"
    ),
    "outage": "服务中断与恢复",
    "outage_asked": (
        "服务中断了 {seconds:.0f} 秒。期间开始了 {requests} 个请求，为它们做了 {attempts} 次尝试（"
        "平均每个 {ratio:.2f} 次），最终有 {answered} 个得到回答。结果：{outcomes}。"
    ),
    "outage_before": (
        "中断之前，每秒有 {steady:.0f} 个请求到达服务，最忙的一秒 {steady_peak:.0f} 个。恢复之后，"
        "最忙的一秒 {peak:.0f} 个（是之前平均值的 {ratio:.2f} 倍）。"
    ),
    "outage_back": (
        "恢复后 {first:.1f} 秒开始的请求第一个得到回答；最后一个失败的请求开始于恢复后"
        " {recovered:.1f} 秒。"
    ),
    "outage_client": "测试客户端不重发失败的请求；会重发的客户端会自己带来另一波请求。",
    "goal_p99": "大多很快：首个可见内容 p99，直连是经代理的几倍",
    "goal_p50": "大多很快：中位数，经代理比直连多",
    "goal_extra": "大多很快：额外尝试",
    "goal_slow_extra": "全面变慢：额外尝试",
    "goal_slow_complete": "全面变慢：完整回答的比例",
    "goal_slow_p50": "全面变慢：中位数，经代理与直连之比",
    "goal_down_attempts": "中断：平均每个请求的尝试次数",
    "goal_down_peak": "中断：恢复后最忙的一秒，与之前平均值之比",
    "decisions": "代理做了哪些决定",
    "decisions_none": "访问日志里没有记录决定。",
}

WORDS: Mapping[str, Words] = {"en": COMMON["en"] | _EN, "zh": COMMON["zh"] | _ZH}
