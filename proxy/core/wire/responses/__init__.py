"""The Responses API told in chat completions, and the answer told back.

asked        a request: read, checked, refused where it cannot be served
items        input items -> chat messages
tools        tools, tool choice and answer format
chat         the request as a chat completion
envelope     the Response object around the output
output       items of an answer as they grow, and the events that tell of them
translator   a chat's events -> Responses events; a whole chat -> a Response
turns        what is kept of a response, for those that follow it

https://platform.openai.com/docs/api-reference/responses and `openai.types.responses` of its SDK.
"""
