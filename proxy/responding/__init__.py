"""The Responses API around an exchange that knows only chats.

wrapped     a client like another one
client      the client of a Responses request: a chat to the exchange, a Response to its caller
history     the responses that a request may follow, and where they are kept
serving     requests for one response: made, told again, deleted
"""
