"""What jobd, its agents and the gateway say to each other, and what is stored: classes and one strict codec.

Pure Python, imports no other part and nothing but attrs: it ships inside the agent's zipapp.
"""
