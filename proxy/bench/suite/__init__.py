"""The suites of `glm-proxy bench --suite`: what they ask, what is made of the answers, the reports.

application.py   what the application of the starting report sends around a prompt
asking.py        asking in turn, and asking at random moments whatever the answers take
lumosai.py       the starting report's scenes, ways and levers; its figures: lumosai_figures.py
tail.py          a mostly quick service, a slow one, one that is gone: phases and figures
writing.py       Markdown, and the words of both languages; *_words.py, *_report.py

Nothing here starts a process: `proxy.cli.suite` does, and hands over where to ask.
"""
