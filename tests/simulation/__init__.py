"""The whole daemon against a seeded universe: virtual time, fake agents, faults, and the contract checked throughout.

universe    chance, time, the trace, and the first violation, which ends everything
disk        what is committed (outlives jobd), and one jobd's way to it
wire        connections that can be cut, half-open, stalled
machine     the fake agents' host: their journals and the executions that outlive them
agent       the fake agent, true to schemas/link.py; connection is one link of it
life        one incarnation of jobd, and what dies with it
daemon      one incarnation after another: started, stopped, killed
clients     users who never coordinate, each with a jobs_tab and an account_tab (tab); operators stop and forget agents
faults      what goes wrong
oracle      the contract: what is on disk and what is executed (truth), turns (fairness)
answers     the contract: what is said of jobs and runs; belongings: of library and tokens, by the rule of a register
ending      everything is over in bounded time, and nothing is left
simulate    all of these together, for one seed; many for many seeds, with a report
"""
