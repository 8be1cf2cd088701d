"""glm-proxy: a streaming reverse proxy for the GLM API.

The rooms, and who may look into which (`tests/test_architecture.py` checks it):

    errors, config  <-  core  <-  net  <-  exchange  <-  app  <-  cli, __main__
                        core  <-  observe  <-----------  app, admin

`exchange` is the life of one request on one page: start reading there.
`core` decides and parses; it is pure: bytes and values in, values out, no clock, no socket.
`net` touches sockets and tasks; it decides nothing.
`observe` turns one finished record into metrics, one log line, spans, and what the page shows.
`app` is the wiring; `telling` and `sharing` are its part that observes, `status` what runs now.
`responding` tells the chats of an exchange as the Responses API; `sockets` brings chats over
WebSockets.
`memory`, `cache` and `resuming` are what a route may do besides: remember, tell again, go on where
a client left (`flight`); `store` keeps answers for them.
`workers` is the processes it runs in: one, or a master and those it forks.
`admin` is the operator's listener, `simulator` a GLM that runs on this machine.
Nothing happens at import; only `cli` and `__main__` see the environment.
"""

__version__ = "0.1.0"
