"""The words of the report on the suite `lumosai`, in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.bench.suite.writing import COMMON, Words

_EN = {
    "title": "LumosAI streaming: validation report",
    "simulated": (
        "**The upstream is simulated.** No request left this machine. What is simulated are"
        " causes, not results: hidden thinking tokens at a token rate, reading the prompt by its"
        " length, a queue that is either short or long, limits of requests in flight, a shared"
        " line for prompts above 8K tokens, and TCP and TLS over a distance for every connection"
        " that has to be opened. The client past the proxy opens one per request, as the report's"
        " did."
    ),
    "calibrated": (
        "**Calibrated on recorded figures** (notes on the API, `glm-api.md` §7 and §9; made"
        " into causes in `proxy/simulator/profiles.py`): this report's"
        " predecessor, glm-4.6 28.8 s and 67 chunks, glm-4-flash 15.6 s and 21 chunks, one"
        " sentence 1.6 s; its author's later measurements, direct call 0.65 s, without history 0.6"
        " to 1.2 s; published streams, time to headers of glm-4.5 0.63 to 3.6 s, glm-4.6 at 47 to"
        " 87 tokens a second, glm-4.5-air p50 2.5 s and p95 6.5 s; 708 thinking tokens of 734 in a"
        " recorded greeting; one per cent of the concurrency of glm-4-flash for prompts above 8K"
        " (documented)."
    ),
    "cannot": (
        "**What it cannot prove:** how the real service is loaded at your hour, with your account"
        " and your network; that thinking was the cause of the 28.8 s and the line of long prompts"
        " that of the 15.6 s (both inferred: nothing else of that size is known); what V1 took in"
        " the short scenes, which nobody recorded; and whether the answers of a smaller model"
        " without thinking are good enough for you. Only `glm-proxy bench URL --against URL` on"
        " the real service proves seconds."
    ),
    "ways_v1": "V1, the baseline: asks glm-4.6, direct, a TLS connection per request",
    "ways_v2": "V2: asks glm-4-flash, direct, a TLS connection per request",
    "ways_proxied": (
        "proxied: asks glm-4.6, as V1 does, of the proxy with `config/fast.yaml` pointed at the"
        " simulator; every way is asked the same messages in the same order"
    ),
    "calibration": "Does the simulator say what was recorded?",
    "calibration_heads": "recorded;figure;recorded;simulated, p50",
    "cal_v1_first": "V1 medium with ten memories;first visible token, s",
    "cal_v1_chunks": "V1 medium with ten memories;chunks of text",
    "cal_v2_first": "V2 medium after a long conversation;first visible token, s",
    "cal_v2_total": "V2 medium after a long conversation;total, s",
    "cal_v2_chunks": "V2 medium after a long conversation;chunks of text",
    "cal_v2_sentence": "V2 one sentence;total, s",
    "results": "Test results",
    "results_heads": (
        "scene;way;served by;TTFB, s;first content p50, s;p90, s;total, s;chunks of text;against V1"
    ),
    "results_note": (
        "Medians over complete answers. TTFB is the first byte of the body, which may be a"
        " thought; first content is the first visible token, what the caller of the starting"
        " report saw."
    ),
    "failed": "{count} requests of {way} in scene {scene} failed.",
    "scene_short": "1 short: 你好",
    "scene_medium": "2 medium, with ten memories (2,300 tokens)",
    "scene_long": "2b medium, after a long conversation (9,000 tokens)",
    "scene_sentence": "3 one sentence",
    "column_short": "1 short",
    "column_medium": "2 medium",
    "column_long": "2b long",
    "column_sentence": "3 sentence",
    "way_v1": "V1 direct",
    "way_v2": "V2 direct",
    "way_proxied": "proxied",
    "comparison": "Comparison with the V1 baseline",
    "comparison_heads": "scene;V1 direct, s;V2 direct;proxied;proxied, later than 90 %",
    "comparison_note": "First content, medians; how many times sooner than V1.",
    "levers": "What each lever contributes",
    "levers_note": (
        "Each is switched off alone, everything else stays on, and the same is asked again. In"
        " brackets how much later the first content then comes; below zero is the chance of the"
        " draws. A lever that another stands in for loses nothing alone: glm-4-flash does not"
        " think, and glm-4.6 with thinking off is nearly as quick. Such pairs are switched off"
        " together too; the two parts of a pair do not add up to it."
    ),
    "levers_heads": "switched off;{scenes};p90, all scenes;of the saving",
    "lever_none": "(nothing)",
    "lever_model": "replacing the model",
    "lever_thinking": "thinking off",
    "lever_model+thinking": "model and thinking",
    "lever_long-route": "own route for long prompts",
    "lever_choice": "choice by expected first content",
    "lever_long-route+choice": "own route and choice",
    "lever_warm": "warm connections",
    "lever_chunks": "every delta at once",
    "lever_hedge": "second attempt beside a late one",
    "goal_first_content": "{scene}: first content",
    "goal_times": "{scene}: against V1",
    "goal_streaming": "{scene}: each token in a chunk of its own",
    "stages": "Where the time went",
    "stages_heads": (
        "scene;way;connection, way and queue;scheduling and prompt;thinking;visible text;sum"
    ),
    "stages_note": (
        "Seconds, means, so that they add up. Direct: as the client saw it. Proxied: from the"
        " proxy's access log, exchanges of one attempt only."
    ),
    "proxy_heads": (
        "scene;served by;exchanges;attempts;proxy's own time, ms;until on a connection, ms"
    ),
    "proxy_note": (
        "What the proxy says of itself, medians in milliseconds of this machine, not scaled. The"
        " same times are in each answer's `server-timing` header and in its metrics."
    ),
    "analysis": "Problem analysis",
    "analysis_thinking": (
        "Most of V1's time is thinking: {thinking:.1f} of {total:.1f} s in scene 2. Its bytes"
        " flow, but an application that reads only `content` sees silence. No network work removes"
        " it."
    ),
    "analysis_line": (
        "Most of V2's time in scene 2b is the line of long prompts: {queue:.1f} of {total:.1f} s."
        " The history, not the network, made it slow: with memories only it took {without:.1f} s."
    ),
    "analysis_rest": (
        "What is left of the proxied time in scene {scene}, the slowest: {queue:.1f} s"
        " connection, way and queue, {prompt:.1f} s scheduling and prompt, {thinking:.1f} s"
        " thinking. The proxy itself: {own:.2f} ms."
    ),
    "analysis_even": (
        "In scenes 1 and 3 V1 was never recorded. The factor {goal:g} holds there while V1 thinks"
        " at least {short:.1f} s and {sentence:.1f} s; {short_now:.1f} s and {sentence_now:.1f} s"
        " are assumed, from one recording of another model."
    ),
    "analysis_p90": (
        "One answer in ten is later than {p90:.1f} s over all scenes: queues that no choice"
        " avoids, and second attempts that wait until the first is late."
    ),
    "analysis_missed": "Not reached: {goals}.",
    "next": "Next steps",
    "next_real": (
        "Repeat it at the real service, with your key, at several hours: `glm-proxy bench https://"
        "…/v1 --against https://open.bigmodel.cn/api/paas/v4`."
    ),
    "next_history": (
        "Send less: a history of 9,000 tokens costs about {prompt:.1f} s of reading in every"
        " model, and the free line in glm-4-flash. That is the application's to change."
    ),
    "next_quality": (
        "Compare the answers of glm-4-flash, glm-4.5-air and glm-4.6 without thinking on your own"
        " questions, and reorder the candidates in `config/fast.yaml`."
    ),
    "next_near": (
        "Add a second endpoint with a key of its own: the nearer is used, the other when it fails."
    ),
}

_ZH = {
    "title": "LumosAI 流式输出：验证报告",
    "simulated": (
        "**上游是模拟的。** 没有任何请求离开本机。模拟的是原因而不是结果：按速率产生的隐藏思考"
        " token、按长度读取提示词、要么很短要么很长的排队、在途请求数限制、8K token 以上提示词共用"
        "的队伍，以及每次新建连接时跨越距离的 TCP 和 TLS 握手。不经过代理的客户端和原报告一样，每"
        "个请求新建一条连接。"
    ),
    "calibrated": (
        "**按有记录的数据校准**（API 笔记 `glm-api.md` §7、§9；换算成原因见"
        " `proxy/simulator/profiles.py`）："
        "上一份报告的 glm-4.6 28.8 秒、67 个"
        "分块，glm-4-flash 15.6 秒、21 个分块，一句话 1.6 秒；原作者后来的测量：直接调用 0.65 秒，"
        "不带历史 0.6 到 1.2 秒；公开的流式记录：glm-4.5 到响应头 0.63 到 3.6 秒，glm-4.6 每秒 47"
        " 到 87 个 token，glm-4.5-air p50 2.5 秒、p95 6.5 秒；一次问候的录制里 734 个 token 有 708"
        " 个是思考；官方文档：超过 8K 的 glm-4-flash 请求只有 1% 的并发。"
    ),
    "cannot": (
        "**它不能证明：** 真实服务在您的时段、账号和网络下有多忙；28.8 秒确实来自思考、15.6 秒确实"
        "来自长提示词排队（两者都是推断：没有已知的其他原因有这么大）；V1 在两个短场景里用了多久（"
        "没有人记录过）；以及更小、不思考的模型的回答对您是否够好。真实的秒数只能在真实服务上用"
        " `glm-proxy bench URL --against URL` 来证明。"
    ),
    "ways_v1": "V1（基线）：直接请求 glm-4.6，每个请求新建 TLS 连接",
    "ways_v2": "V2：直接请求 glm-4-flash，每个请求新建 TLS 连接",
    "ways_proxied": (
        "经代理：和 V1 一样请求 glm-4.6，由使用 `config/fast.yaml`、指向模拟器的代理处理；每条路径"
        "以相同的顺序收到相同的消息"
    ),
    "calibration": "模拟器与记录是否一致",
    "calibration_heads": "记录;指标;记录值;模拟值（p50）",
    "cal_v1_first": "V1 中等长度，带十条记忆;首个可见 token，秒",
    "cal_v1_chunks": "V1 中等长度，带十条记忆;正文分块数",
    "cal_v2_first": "V2 中等长度，长对话之后;首个可见 token，秒",
    "cal_v2_total": "V2 中等长度，长对话之后;总时间，秒",
    "cal_v2_chunks": "V2 中等长度，长对话之后;正文分块数",
    "cal_v2_sentence": "V2 一句话;总时间，秒",
    "results": "测试结果",
    "results_heads": (
        "场景;路径;实际模型;TTFB，秒;首个可见内容 p50，秒;p90，秒;总时间，秒;正文分块数;对比 V1"
    ),
    "results_note": (
        "均为完整回答的中位数。TTFB 是响应体的第一个字节，可能只是思考；首个可见内容是第一个看得见"
        "的 token，也就是原报告的调用方所看到的。"
    ),
    "failed": "路径 {way} 在场景 {scene} 中有 {count} 个请求失败。",
    "scene_short": "1 短：你好",
    "scene_medium": "2 中等：带十条记忆（2,300 token）",
    "scene_long": "2b 中等：长对话之后（9,000 token）",
    "scene_sentence": "3 一句话",
    "column_short": "1 短",
    "column_medium": "2 中等",
    "column_long": "2b 长对话",
    "column_sentence": "3 一句话",
    "way_v1": "V1 直连",
    "way_v2": "V2 直连",
    "way_proxied": "经代理",
    "comparison": "与 V1 基线的对比",
    "comparison_heads": "场景;V1 直连，秒;V2 直连;经代理;经代理（p90）",
    "comparison_note": "首个可见内容，中位数；比 V1 早多少倍。",
    "levers": "每项措施的贡献",
    "levers_note": (
        "每次只关掉一项，其余保持打开，再问同样的问题。括号里是首个可见内容因此晚了多少秒；负数只"
        "是随机波动。能被另一项代替的措施，单独关掉时看不出损失：glm-4-flash 本来就不思考，而关闭"
        "思考的 glm-4.6 几乎一样快。所以这样的两项还会一起关掉再测一次；两项各自的数值相加并不等于"
        "一起关掉的数值。"
    ),
    "levers_heads": "关掉的措施;{scenes};全部场景 p90;占节省时间的比例",
    "lever_none": "（全部打开）",
    "lever_model": "替换模型",
    "lever_thinking": "关闭思考",
    "lever_model+thinking": "替换模型与关闭思考",
    "lever_long-route": "长提示词单独的路由",
    "lever_choice": "按预计的首个可见内容时间选择",
    "lever_long-route+choice": "单独路由与选择",
    "lever_warm": "预热连接",
    "lever_chunks": "每个增量立即发出",
    "lever_hedge": "迟到时并行的第二次尝试",
    "goal_first_content": "{scene}：首个可见内容",
    "goal_times": "{scene}：对比 V1",
    "goal_streaming": "{scene}：每个 token 独立成块",
    "stages": "时间花在哪里",
    "stages_heads": "场景;路径;连接、网络与排队;调度与读取提示词;思考;可见正文;合计",
    "stages_note": (
        "单位为秒，取平均值，因此可以相加。直连：客户端所见。经代理：来自代理的访问日志，只计只有"
        "一次尝试的请求。"
    ),
    "proxy_heads": "场景;实际模型;请求数;尝试次数;代理自身耗时，毫秒;取得连接前，毫秒",
    "proxy_note": (
        "代理对自己的记录，本机毫秒的中位数，未缩放。同样的时间也在每个回答的 `server-timing` 头和"
        "指标里。"
    ),
    "analysis": "问题分析",
    "analysis_thinking": (
        "V1 的时间大部分是思考：场景 2 的 {total:.1f} 秒里占 {thinking:.1f} 秒。字节一直在流动，但"
        "只读 `content` 的应用看到的是一片沉默。网络上的任何优化都去不掉它。"
    ),
    "analysis_line": (
        "V2 在场景 2b 的时间大部分是长提示词的排队：{total:.1f} 秒里占 {queue:.1f} 秒。让它变慢的"
        "是历史消息，不是网络：只带记忆时是 {without:.1f} 秒。"
    ),
    "analysis_rest": (
        "经代理后最慢的是场景 {scene}，剩下的时间：连接、网络与排队 {queue:.1f} 秒，调度与读取提示"
        "词 {prompt:.1f} 秒，思考 {thinking:.1f} 秒。代理自身：{own:.2f} 毫秒。"
    ),
    "analysis_even": (
        "场景 1 和 3 没有 V1 的记录。只要 V1 在这两个场景里分别至少思考 {short:.1f} 秒和"
        " {sentence:.1f} 秒，{goal:g} 倍的目标就成立；这里按另一个模型的一次录制假设为"
        " {short_now:.1f} 秒和 {sentence_now:.1f} 秒。"
    ),
    "analysis_p90": (
        "全部场景里十个回答有一个晚于 {p90:.1f} 秒：这是任何选择都避不开的排队，以及要等第一次尝试"
        "迟到之后才开始的第二次尝试。"
    ),
    "analysis_missed": "未达成：{goals}。",
    "next": "下一步",
    "next_real": (
        "用您自己的 key，在几个不同的时段，在真实服务上重复：`glm-proxy bench https://…/v1"
        " --against https://open.bigmodel.cn/api/paas/v4`。"
    ),
    "next_history": (
        "少发一些：9,000 token 的历史在每个模型上都要花约 {prompt:.1f} 秒读取，在 glm-4-flash 上还"
        "要排免费的长队。这要由应用来改。"
    ),
    "next_quality": (
        "用您自己的问题比较 glm-4-flash、glm-4.5-air 和不思考的 glm-4.6 的回答，再调整"
        " `config/fast.yaml` 里候选的顺序。"
    ),
    "next_near": "增加一个有独立 key 的第二端点：用较近的那个，它出故障时用另一个。",
}

WORDS: Mapping[str, Words] = {"en": COMMON["en"] | _EN, "zh": COMMON["zh"] | _ZH}
