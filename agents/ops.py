"""Ops: the orders that are answered. Each lives in its connection's task and is cancelled by Drop, or with the link."""

import contextlib
import logging
from collections.abc import Callable

import trio

from agents import files
from agents.analysis import Workers
from agents.answers import Content, OpFailed, spool_json
from agents.bulk import Bulk, TransferFailed
from agents.disk import Tree
from agents.link import Link, Op
from schemas import codec
from schemas.codec import Json
from schemas.link import REPLY_BYTES_MAX, Analyse, Answer, Compute, Epoch, List

log = logging.getLogger(__name__)


class Ops:
    """Serves one op after the other, any number at a time."""

    def __init__(
        self, tree: Tree, workers: Workers, bulk: Bulk, link: Link, is_running: Callable[[Epoch], bool]
    ) -> None:
        self._tree = tree
        self._workers = workers
        self._bulk = bulk
        self._link = link
        self._is_running = is_running

    async def serve(self, op: Op) -> None:
        """Answer an op, by message or, when it is large, by word and bulk."""
        try:
            result = await self._result(op)
            if not isinstance(result, Content):
                text = codec.dumps(result)
                if len(text.encode()) > REPLY_BYTES_MAX:
                    result = await trio.to_thread.run_sync(spool_json, self._tree.own, text)
        except OpFailed as failure:
            await self._link.answer(Answer(op.op, error=failure.code, text=failure.text))
        except OSError as error:
            await self._link.answer(Answer(op.op, error="agent", text=f"the agent failed: {error.strerror}"))
        else:
            if isinstance(result, Content):
                with contextlib.closing(result):
                    await self._send(op.op, result)
            else:
                await self._link.answer(Answer(op.op, result=result))

    async def _result(self, op: Op) -> Json | Content:
        if isinstance(op, Analyse):
            return await self._workers.ask(op.worker, op.method, self._tree.run_dir(op.epoch), op.arguments)
        if isinstance(op, Compute):
            return await self._workers.ask(op.worker, op.method, None, op.arguments)
        if isinstance(op, List):
            return await trio.to_thread.run_sync(files.list_files, op, self._tree, abandon_on_cancel=True)
        return await files.read(op, self._tree, self._is_running)

    async def _send(self, op: str, content: Content) -> None:
        await self._link.answer(Answer(op, content.result, bytes=content.length, type=content.kind))
        if content.length > 0:
            try:
                await self._bulk.push(op, content)
            except (OSError, trio.BrokenResourceError, trio.TooSlowError, TransferFailed) as error:
                log.warning("op %s: its bytes were not sent: %s", op, error)  # jobd sees them missing
