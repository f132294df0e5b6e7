"""jobd: the job supervisor behind a science gateway. Start reading at supervisor.py."""
