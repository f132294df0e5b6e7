"""The whole daemon against a seeded universe: virtual time, fake agents, faults, and the contract checked throughout.

universe    chance, time, the trace, and the first violation, which ends everything
disk        what is committed (outlives jobd), and one jobd's way to it
wire        connections that can be cut, half-open, stalled
machine     the fake agents' host: their journals and the executions that outlive them
agent       the fake agent, true to schemas/link.py
daemon      one incarnation of jobd after another: started, stopped, killed
clients     users who never coordinate
faults      what goes wrong
oracle      the contract
simulate    all of these together, for one seed
"""
