"""Several processes on the same sockets: a master that serves nothing, and its workers.

master      what the operator tells it and what becomes of its workers; read it first
crew        the workers it has: made by fork, watched by their beat, buried
worker      one of them, from the fork to its end
channel     what the two tell each other, and how settings cross
successor   another master, of whatever code is on the disk then, that takes over the sockets
pace        how soon a worker that ended is followed by another
activation  sockets that somebody else opened, and what systemd wants to hear
alone       `server.workers: 1`: the same life without a master
drain       the end of either
cpus        how many workers `auto` is

The master is a plain loop without threads and without asyncio, so that a fork copies nothing that
runs. gunicorn's arbiter was tried first (27.0, two workers, on this project's reference machine).
It replaces a killed worker in 8 ms and a stopped one in 6.0 s, which is as good as ours. But a
second SIGTERM is ignored while it stops (7.6 s of a drain of 8 s, ended with 0); a worker that
cannot start ends the whole service, with the streams of all others; SIGUSR2 starts a second master
and leaves it to the operator to end the first one once it looks well; SIGHUP replaces the workers,
so that a thousand reloads are a thousand forks; its limits are of the wall clock. What would be
left of it after those were overridden is the fork.
"""
