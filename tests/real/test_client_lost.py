"""What the client does when connections, answers and the daemon are lost: repeat what is harmless, and nothing else."""

import itertools
import threading
import time
from collections.abc import Callable

import pytest
from asking import WAITS, go
from realdaemon import OVER, wait_until
from talking import Proxy, Speaker

from jobd.client import Event, Input, UncertainError, UnreachableError

pytestmark = pytest.mark.parametrize("kind", ["threads", "trio"])


def script(text: str) -> dict[str, str]:
    return {"script.sh": text}


def over(serial: int) -> Callable[[Event], bool]:
    """The event that says that this run is over."""

    def is_it(event: Event) -> bool:
        now = event.status
        return now is not None and now.serial == serial and now.state in OVER and bool(now.end_confirmed)

    return is_it


class Watch:
    """Somebody who watches a job, in a thread."""

    def __init__(self, speaker: Speaker, job: str, until: Callable[[Event], bool], last: int | None = None) -> None:
        self.events: list[Event] = []

        def note(event: Event) -> bool:
            self.events.append(event)
            return until(event)

        self._thread = threading.Thread(
            target=lambda: speaker.events("alice", job, last=last, until=note), daemon=True
        )  # fmt: skip
        self._thread.start()

    def wait(self) -> "Watch":
        self._thread.join(25)
        assert not self._thread.is_alive(), [event.name for event in self.events]
        return self

    @property
    def numbers(self) -> list[int]:
        return [event.number for event in self.events if event.number is not None]


# --- events -----------------------------------------------------------------------------------------------------------


def test_no_stage_is_lost_or_doubled_over_cuts(jobd, direct, proxy, job):
    watch = Watch(jobd, job, over(3), last=0)
    for _ in range(3):
        direct.run("alice", job, "shell", inputs=script("sleep 0.3"), force=True)
        while direct.status("alice", job).state not in OVER:
            time.sleep(0.05)
            proxy.cut()
        direct.result("alice", job)
    assert watch.wait().numbers == list(range(1, 16))
    assert proxy.accepted > 5


@pytest.mark.parametrize("there_was", ["no run", "a run", "a purged run"])
def test_what_happened_in_a_pause_before_the_first_stage_is_told(jobd, direct, daemon, proxy, job, there_was):
    if there_was != "no run":
        direct.run("alice", job, "shell", inputs=script("true"))
        direct.result("alice", job)
    if "purged" in there_was:
        direct.delete("alice", job)
    before = 0 if there_was == "no run" else 5
    watch = Watch(jobd, job, over(2 if before else 1))
    wait_until(lambda: watch.events, "the first status")
    proxy.target = "http://127.0.0.1:1"
    proxy.cut()
    direct.run("alice", job, "shell", inputs=script("echo other"))
    direct.result("alice", job)
    proxy.target = daemon.url
    assert watch.wait().numbers == [before + number for number in range(1, 6)]


def test_whoever_begins_to_watch_at_any_time_misses_nothing_from_there_on(jobd, direct, daemon, job):
    watches = []
    direct.run("alice", job, "shell", inputs=script("for i in 1 2 3 4 5; do echo $i >> frames.txt; sleep 0.1; done"))
    while direct.status("alice", job).state not in OVER:
        watches.append(Watch(jobd, job, over(1)))
        time.sleep(0.03)
    assert len(watches) > 5
    for watch in watches:
        watch.wait()
        told = [event for event in watch.events if event.number or event.status]
        known = next(event.status.timeline[-1].number for event in told if event.status)
        first = [event.number for event in itertools.takewhile(lambda event: not event.status, told)]
        numbers = watch.numbers
        assert numbers == list(range((first or [known + 1])[0], 6)), (known, numbers)


def test_events_log_and_result_go_on_over_a_sigkill_of_the_daemon(make_daemon, kind, job):
    daemon = make_daemon().start()
    proxy = Proxy(daemon.url)
    jobd = Speaker(kind, proxy.url, token=daemon.token)
    jobd.run("alice", job, "shell", inputs=script(WAITS))
    watch = Watch(jobd, job, over(1), last=0)
    answers: dict[str, object] = {}
    threads = [
        threading.Thread(target=lambda: answers.update(log=b"".join(jobd.log("alice", job, follow=True)))),
        threading.Thread(target=lambda: answers.update(result=jobd.result("alice", job))),
    ]
    for thread in threads:
        thread.start()
    daemon.until("alice", job, "running")
    wait_until(lambda: 4 in watch.numbers, "it has begun")
    daemon.sigkill_and_restart()
    proxy.target = daemon.url
    daemon.until("alice", job, lambda now: now["known"]["state"] == "fresh")
    go(daemon, "alice", job)
    for thread in threads:
        thread.join(20)
    assert watch.wait().numbers == [1, 2, 3, 4, 5]
    assert answers["log"] == b"begun\ndone\n"
    assert answers["result"].state == "completed"  # type: ignore[attr-defined]
    daemon.sigterm()  # and over a clean restart
    threading.Timer(0.3, lambda: (daemon.start(), setattr(proxy, "target", daemon.url))).start()
    assert jobd.status("alice", job).state == "completed"
    proxy.close()


# --- lost answers -----------------------------------------------------------------------------------------------------


def test_a_run_whose_answer_was_lost_runs_once(jobd, direct, proxy, job):
    proxy.lose_answers = 2
    assert jobd.run("alice", job, "shell", inputs=script("echo once")).serial == 1
    assert proxy.accepted == 3
    assert direct.result("alice", job).state == "completed"
    assert [run.serial for run in direct.runs("alice", job)] == [1]


@pytest.mark.parametrize("options", [{}, {"force": True}, {"supersede": True}], ids=["plain", "force", "supersede"])
def test_a_run_that_has_failed_before_it_is_asked_for_again_runs_once(jobd, direct, proxy, job, options):
    direct.session("alice")  # a warm agent is quick
    proxy.then = lambda: direct.result("alice", job)  # its end comes before the repetition
    proxy.cuts = [0]
    assert jobd.run("alice", job, "shell", inputs=script("exit 1"), **options).state == "failed"
    proxy.lose_answers = 2
    assert jobd.run("alice", job, "shell", inputs=script("exit 1"), **options).serial == 2  # this was asked anew
    assert direct.result("alice", job).serial == 2


def test_a_run_of_the_library_is_itself_when_the_library_has_changed_meanwhile(jobd, direct, proxy, job):
    direct.upload("alice", job, b"echo once")
    proxy.then, proxy.cuts = lambda: direct.remove("alice", job), [0]
    assert jobd.run("alice", job, "shell", inputs={"script.sh": Input(library=job)}).serial == 1
    assert direct.result("alice", job).state == "completed"


def test_only_a_cancel_that_names_its_run_is_repeated(jobd, direct, proxy, job):
    direct.run("alice", job, "shell", inputs=script(WAITS))
    proxy.lose_answers = 1
    assert jobd.cancel("alice", job, serial=1).state == "canceled"
    assert proxy.accepted == 2
    direct.run("alice", job, "shell", inputs=script(WAITS))
    proxy.lose_answers = 1
    with pytest.raises(UncertainError, match="cancel"):
        jobd.cancel("alice", job)
    assert proxy.accepted == 3
    assert direct.result("alice", job, deadline_s=20).state == "canceled"


def test_what_could_harm_is_not_repeated(jobd, direct, proxy, kind, job):
    user = f"lost-{kind}"
    direct.upload(user, "f", b"x")
    token = direct.mint(user)
    direct.run(user, "j", "shell", inputs=script("true"))
    direct.result(user, "j")
    for call in (
        lambda: jobd.mint(user),
        lambda: jobd.remove(user, "f"),
        lambda: jobd.revoke(token.id, user),
        lambda: jobd.delete(user, "j"),
    ):
        before = proxy.accepted
        proxy.lose_answers = 1
        with pytest.raises(UncertainError):
            call()
        assert proxy.accepted == before + 1
    assert len(direct.tokens(user).tokens) == 1, "one minted, one revoked"
    assert direct.library(user).files == ()
    assert direct.status(user, "j").state == "missing"


def test_what_cannot_have_been_heard_is_repeated_in_any_case(jobd, direct, daemon, kind):
    dead = Speaker(kind, "http://127.0.0.1:1", patience_s=0.2)
    with pytest.raises(UnreachableError):
        dead.mint("alice")
    # A port that opens later.
    late = Proxy(daemon.url)
    late.close()
    threading.Timer(0.5, lambda: reopen(late)).start()
    jobd = Speaker(kind, late.url, token=daemon.token)
    assert jobd.mint(f"late-{kind}").token
    assert len(direct.tokens(f"late-{kind}").tokens) == 1
    late.close()


def reopen(proxy: Proxy) -> None:
    again = Proxy(proxy.target, port=int(proxy.url.rpartition(":")[2]))
    proxy._listener = again._listener


def test_patience_begins_with_the_failure_and_not_with_the_call(direct, proxy, daemon, job, kind):
    jobd = Speaker(kind, proxy.url, token=daemon.token, patience_s=0.5)
    direct.run("alice", job, "shell", inputs=script(WAITS))
    daemon.until("alice", job, "running")
    threading.Timer(1.0, proxy.cut).start()
    threading.Timer(1.5, go, (daemon, "alice", job)).start()
    assert jobd.result("alice", job).state == "completed"
