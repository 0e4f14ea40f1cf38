"""Second pass over a pickle: run it, with every dict of a snapshot going straight into columns.

A value on the machine's stack is one word: a tag in the low four bits, a payload above. Integers,
strings (numbered by content) and pairs of small integers live in the word itself; lists and dicts
are numbers into `boxes`, which says what became of each: nothing yet, plain contents in the arena,
or a row of a table. A dict becomes a row when its keys and the types of their values are exactly
those of a trace entry, block, segment, frame or history; anything else stays plain, so that the
reader can say what is wrong with it. No Python object exists until all of this is over.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import pickle_opcodes as op
from . import snapshot_words as sw
from .intern import find_pair, find_run, find_text, find_triple, hash_text
from .jit import helper, inline, kernel
from .pickle_scan import (
    CHANGED,
    COLLISIONS,
    KEY,
    MEMO_RANGE,
    MEMO_UNSET,
    NOT_A_DICT,
    NOT_A_LIST,
    OK,
    TOO_MANY,
    i8,
    u2,
    u4,
)

# Tags of a word. A word of 0 is no value at all.
INT, STR, DICT, LIST, TUPLE, PAIR, BIG, FLOAT, NONE, FALSE, TRUE, BYTES, RUN = range(1, 14)
# What a box holds: tag and payload like a word. 0 = an empty list or dict.
CONTENTS, NO_RUN, AS_RUN, ENTRY, FRAME, BLOCK, SEGMENT, PAST = range(1, 9)

BAD = -(1 << 63)  # "not an integer of 64 bits"
MAX_INDEX = 65535  # streams and pools are numbered in 16 bits

_OWN_ENTRY = sw.mask(
    sw.ACTION, sw.ADDR, sw.DEVICE_FREE, sw.SIZE, sw.STREAM, sw.TIME_US, sw.FRAMES, sw.POOL_ID,
    sw.CPP_FRAMES,
)  # fmt: skip
_OWN_SEGMENT = sw.mask(
    sw.DEVICE, sw.ADDRESS, sw.TOTAL_SIZE, sw.ALLOCATED_SIZE, sw.ACTIVE_SIZE, sw.REQUESTED_SIZE,
    sw.STREAM, sw.SEGMENT_TYPE, sw.SEGMENT_POOL_ID, sw.IS_EXPANDABLE, sw.FRAMES, sw.BLOCKS,
)  # fmt: skip
_OWN_BLOCK = sw.mask(
    sw.ADDRESS, sw.SIZE, sw.REQUESTED_SIZE, sw.STATE, sw.FRAMES, sw.HISTORY, sw.CPP_FRAMES
)
_NEED_ENTRY = sw.mask(sw.ACTION, sw.SIZE, sw.STREAM)
_NEED_PLACE = sw.mask(sw.ADDR, sw.DEVICE_FREE)
_NEED_FRAME = sw.mask(sw.FILENAME, sw.LINE, sw.NAME)
_NEED_SEGMENT = sw.mask(sw.DEVICE, sw.ADDRESS, sw.TOTAL_SIZE, sw.STREAM, sw.SEGMENT_TYPE, sw.BLOCKS)
_NEED_BLOCK = sw.mask(sw.SIZE, sw.STATE)
_NEED_PAST = sw.mask(sw.ADDR, sw.REAL_SIZE)

# Segments and blocks are few: their rows hold words as they came, checked afterwards.
BLOCK_KEYS = (
    sw.ADDRESS, sw.SIZE, sw.REQUESTED_SIZE, sw.STATE, sw.HISTORY, sw.ADDR, sw.REAL_SIZE
)  # fmt: skip
SEGMENT_KEYS = (
    sw.DEVICE, sw.ADDRESS, sw.TOTAL_SIZE, sw.ALLOCATED_SIZE, sw.ACTIVE_SIZE, sw.REQUESTED_SIZE,
    sw.STREAM, sw.SEGMENT_TYPE, sw.SEGMENT_POOL_ID, sw.IS_EXPANDABLE, sw.BLOCKS,
)  # fmt: skip
BLOCK_STACK, BLOCK_NOTE = len(BLOCK_KEYS), len(BLOCK_KEYS) + 1
SEGMENT_STACK, SEGMENT_NOTE = len(SEGMENT_KEYS), len(SEGMENT_KEYS) + 1
_BLOCK_KEYS, _SEGMENT_KEYS = np.array(BLOCK_KEYS), np.array(SEGMENT_KEYS)

# Sizes of the tables in use; indices into `used`.
(
    ARENA, TEXTS, STREAMS, POOLS, FRAMES, RUNS, RUN_ITEMS, NOTES, NOTE_WORDS, ENTRIES, BLOCKS,
    SEGMENTS, FRAME_EXTRAS, N_USED,
) = range(14)  # fmt: skip


class Tables(NamedTuple):
    """The machine's memory, one array per table."""

    stack: np.ndarray
    memo: np.ndarray
    boxes: np.ndarray
    arena: np.ndarray
    text_at: np.ndarray  # offset of each distinct string in the file
    text_len: np.ndarray
    text_word: np.ndarray  # its number in snapshot_words, 0 = another string
    text_slots: np.ndarray  # hash tables: number + 1, 0 = free
    streams: np.ndarray
    stream_slots: np.ndarray
    pools: np.ndarray
    pool_slots: np.ndarray
    frames: np.ndarray
    frame_slots: np.ndarray
    runs: np.ndarray  # ends of the runs in run_items
    run_items: np.ndarray  # frame number << 1, or string number << 1 | 1
    run_mixed: np.ndarray  # 1 = not a call stack: strings among the items
    run_slots: np.ndarray
    notes: np.ndarray  # ends of the notes in note_words
    note_words: np.ndarray  # key, value, key, value
    note_slots: np.ndarray
    used: np.ndarray


class Rows(NamedTuple):
    """Columns the machine fills."""

    action: np.ndarray
    addr: np.ndarray
    size: np.ndarray
    stream: np.ndarray
    time_us: np.ndarray
    stack: np.ndarray
    pool: np.ndarray
    note: np.ndarray
    blocks: np.ndarray  # words of BLOCK_KEYS (0 = absent), stack, note; also rows of histories
    segments: np.ndarray  # words of SEGMENT_KEYS, stack, note


@helper
def _big(data, p):
    """Return the integer of the LONG1 or LONG4 at p, or BAD if it needs more than 64 bits."""
    if data[p] == op.LONG1:
        n = np.int64(data[p + 1])
        p += 2
    else:
        n = u4(data, p + 1)
        p += 5
    if n == 0:
        return 0
    sign = np.int64(data[p + n - 1]) >> 7
    value = np.int64(-sign)
    for k in range(n - 1, -1, -1):
        byte = np.int64(data[p + k])
        if k >= 8:
            if byte != sign * 255:
                return BAD
        else:
            value = value << 8 | byte
    # Eight bytes may have turned the sign that the longer number has.
    if (value < 0) != (sign == 1):
        return BAD
    return value


@helper
def _line(data, word):
    """Return a frame's line, -1 if it has none, BAD if the word is no 64-bit integer.

    From Python 3.12 on an instruction may belong to no line, such as what leaves an `except`: its
    line is -1 and stands in the snapshot as an unsigned number.

    Source: torch/csrc/profiler/python/combined_traceback.cpp, PythonTraceback::appendSymbolized.
    """
    if word & 15 == BIG:
        p = word >> 4
        if data[p] == op.LONG1 and data[p + 1] == 9 and data[p + 10] == 0:
            return i8(data, p + 2)
        return _big(data, p)
    return word >> 4 if word & 15 == INT else BAD


@helper
def _rare(data, p, code):
    """Return the word of an opcode that is rare, 0 if it pushes nothing, and where it ends."""
    if code == op.NONE:
        return NONE, p + 1
    if code == op.NEWTRUE:
        return TRUE, p + 1
    if code == op.NEWFALSE:
        return FALSE, p + 1
    if code == op.BINFLOAT:
        return (p + 1) << 4 | FLOAT, p + 9
    if code == op.LONG4:
        return p << 4 | BIG, p + 5 + u4(data, p + 1)
    if code == op.SHORT_BINBYTES:
        return p << 4 | BYTES, p + 2 + np.int64(data[p + 1])
    if code == op.BINBYTES:
        return p << 4 | BYTES, p + 5 + u4(data, p + 1)
    if code == op.BINBYTES8:
        return p << 4 | BYTES, p + 9 + i8(data, p + 1)
    return 0, p + (2 if code == op.OP_PROTO else 9)


@inline
def _whole(data, word):
    """Return the integer a word stands for, BAD if it is none or needs more than 64 bits."""
    if word & 15 == INT:
        return word >> 4
    if word & 15 == BIG:
        return _big(data, word >> 4)
    return BAD


@helper
def _as_run(boxes, arena, runs, run_items, run_mixed, run_slots, used, seed, box):
    """Turn a list of frames and strings into a numbered run; -1 if it holds anything else.

    The list can no longer be changed: its number is already in use. -2 = crafted collisions.
    """
    state = boxes[box]
    if state == 0:
        boxes[box] = AS_RUN
        return 0
    if state & 15 == AS_RUN:
        return state >> 4
    if state & 15 != CONTENTS:
        return -1
    head = state >> 4
    start = used[RUN_ITEMS]
    top = start
    chunk = head + 1
    single = arena[chunk] == 0
    texts = 0
    while True:
        for k in range(chunk + 2, chunk + 2 + arena[chunk + 1]):
            word = arena[k]
            if word & 15 == STR:
                run_items[top] = (word >> 4) << 1 | 1
                texts += 1
            elif word & 15 == DICT and boxes[word >> 4] & 15 == FRAME:
                run_items[top] = (boxes[word >> 4] >> 4) << 1
            else:
                boxes[box] = head << 4 | NO_RUN
                return -1
            top += 1
        chunk = arena[chunk]
        if chunk == 0:
            break
    found = find_run(run_items, runs, run_slots, used, RUNS, start, top, seed)
    if found < 0:
        return -2
    if runs[found] == top:  # a new one
        used[RUN_ITEMS] = top
        run_mixed[found] = texts > 0
    # A list that was just written can give its room in the arena back.
    if single and head + 3 + arena[head + 2] == used[ARENA]:
        used[ARENA] = head
    boxes[box] = found << 4 | AS_RUN
    return found


@inline
def _store(boxes, arena, used, box, stack, first, last):
    """Move items from the stack to the end of a list's or dict's contents in the arena."""
    state = boxes[box]
    top = used[ARENA]
    if state == 0:
        boxes[box] = top << 4 | CONTENTS
        arena[top] = top + 1
        top += 1
    else:
        arena[arena[state >> 4]] = top
        arena[state >> 4] = top
    arena[top] = 0
    arena[top + 1] = last - first
    top += 2
    for k in range(first, last):
        arena[top] = stack[k]
        top += 1
    used[ARENA] = top


@kernel
def run(
    data: np.ndarray, seed: int, words: np.ndarray, word_at: np.ndarray, t: Tables, r: Rows
) -> tuple[Any, Any]:
    """Run a pickle that `pickle_scan.scan` accepted, with tables of the sizes it counted.

    One function on purpose: an array handed to another function costs two atomic counts, more
    than most opcodes. Only what is rare per entry is a call.

    Returns:
        (OK, the word of the result), or (reason, offset).
    """
    stack, memo, boxes, arena = t.stack, t.memo, t.boxes, t.arena
    text_at, text_len, text_word, text_slots = t.text_at, t.text_len, t.text_word, t.text_slots
    streams, stream_slots, pools, pool_slots = t.streams, t.stream_slots, t.pools, t.pool_slots
    frames, frame_slots = t.frames, t.frame_slots
    runs, run_items, run_mixed, run_slots = t.runs, t.run_items, t.run_mixed, t.run_slots
    notes, note_words, note_slots, used = t.notes, t.note_words, t.note_slots, t.used
    e_action, e_addr, e_size, e_stream = r.action, r.addr, r.size, r.stream
    e_time, e_stack, e_pool, e_note = r.time_us, r.stack, r.pool, r.note
    blocks, segments = r.blocks, r.segments

    slot = np.zeros(32, np.int64)
    marks = np.zeros(512, np.int64)
    n_marks = 0
    sp = 0
    n_boxes = 0
    n_memo = 0
    last_stream, last_stream_at = BAD, 0
    last_pool, last_pool_at = 0, 0
    p = 0
    here = 0
    fault = OK
    while True:
        code = np.int64(data[p])
        here = p
        if code == op.BINGET or code == op.LONG_BINGET:
            if code == op.BINGET:
                k = np.int64(data[p + 1])
                p += 2
            else:
                k = u4(data, p + 1)
                p += 5
            if k >= len(memo):
                fault = MEMO_RANGE
                break
            word = memo[k]
            if word == 0:
                fault = MEMO_UNSET
                break
            stack[sp] = word
            sp += 1
        elif code == op.BININT1:
            stack[sp] = np.int64(data[p + 1]) << 4 | INT
            sp += 1
            p += 2
        elif code == op.BININT2:
            stack[sp] = u2(data, p + 1) << 4 | INT
            sp += 1
            p += 3
        elif code == op.BININT:
            # Shifted up and down again to spread the sign.
            stack[sp] = ((u4(data, p + 1) << 32) >> 28) | INT
            sp += 1
            p += 5
        elif code == op.LONG1:
            n = np.int64(data[p + 1])
            if n <= 7:
                value = np.int64(0)
                for k in range(n):
                    value |= np.int64(data[p + 2 + k]) << (8 * k)
                if n > 0:
                    shift = 64 - 8 * n
                    value = (value << shift) >> shift
                # Seven bytes fit into the payload of sixty bits.
                stack[sp] = value << 4 | INT
            else:
                value = _big(data, p)
                if value != BAD and (value << 4) >> 4 == value:
                    stack[sp] = value << 4 | INT
                else:
                    stack[sp] = p << 4 | BIG
            sp += 1
            p += 2 + n
        elif code == op.MEMOIZE or code == op.BINPUT or code == op.LONG_BINPUT:
            if code == op.MEMOIZE:
                k = n_memo
                p += 1
            elif code == op.BINPUT:
                k = np.int64(data[p + 1])
                p += 2
            else:
                k = u4(data, p + 1)
                p += 5
            if k >= len(memo):
                fault = MEMO_RANGE
                break
            if memo[k] == 0:
                n_memo += 1
            memo[k] = stack[sp - 1]
        elif code == op.EMPTY_DICT:
            stack[sp] = n_boxes << 4 | DICT
            n_boxes += 1
            sp += 1
            p += 1
        elif code == op.EMPTY_LIST:
            stack[sp] = n_boxes << 4 | LIST
            n_boxes += 1
            sp += 1
            p += 1
        elif code == op.OP_MARK:
            marks[n_marks] = sp
            n_marks += 1
            p += 1
        elif code == op.SETITEMS or code == op.SETITEM or code == op.APPENDS or code == op.APPEND:
            p += 1
            first = sp - 1
            if code == op.SETITEMS or code == op.APPENDS:
                n_marks -= 1
                first = marks[n_marks]
            elif code == op.SETITEM:
                first = sp - 2
            target = stack[first - 1]
            box = target >> 4
            state = boxes[box] if target & 15 == DICT or target & 15 == LIST else 0
            if code == op.APPENDS or code == op.APPEND:
                if target & 15 != LIST or state & 15 == AS_RUN:
                    fault = NOT_A_LIST if target & 15 != LIST else CHANGED
                    break
                if sp > first:
                    _store(boxes, arena, used, box, stack, first, sp)
                sp = first
                continue
            if target & 15 != DICT or state & 15 > NO_RUN:
                fault = NOT_A_DICT if target & 15 != DICT else CHANGED
                break
            for k in range(len(slot)):
                slot[k] = 0
            mask = 0
            plain = state != 0
            for k in range(first, sp, 2):
                word = stack[k]
                if word & 15 == STR:
                    key = np.int64(text_word[word >> 4])
                    if 0 < key < sw.FIRST_ACTION:
                        slot[key] = stack[k + 1]
                        mask |= 1 << key
                else:
                    if word & 15 == DICT or word & 15 == LIST:
                        fault = KEY
                        break
                    plain = True
            if fault != OK:
                break

            kind = CONTENTS
            own = 0
            if plain:
                pass
            elif mask & _NEED_ENTRY == _NEED_ENTRY and mask & _NEED_PLACE:
                kind = ENTRY
                own = _OWN_ENTRY
            elif mask & _NEED_FRAME == _NEED_FRAME:
                kind = FRAME
            elif mask & _NEED_SEGMENT == _NEED_SEGMENT:
                kind = SEGMENT
                own = _OWN_SEGMENT
            elif mask & _NEED_BLOCK == _NEED_BLOCK:
                kind = BLOCK
                own = _OWN_BLOCK
            elif mask & _NEED_PAST == _NEED_PAST:
                kind = PAST

            # The call stack of any kind of row; -1 = `frames` is not a list of frames.
            trace = np.int64(0)
            word = slot[sw.FRAMES]
            if word != 0 and kind != CONTENTS:
                trace = np.int64(-1)
                if word & 15 == LIST:
                    state = boxes[word >> 4]
                    if state & 15 == AS_RUN:
                        trace = state >> 4
                    else:
                        trace = _as_run(
                            boxes, arena, runs, run_items, run_mixed, run_slots, used, seed,
                            word >> 4,
                        )  # fmt: skip
                        if trace == -2:
                            fault = COLLISIONS
                            break
                    if trace > 0 and run_mixed[trace]:
                        trace = np.int64(-1)

            action = np.int64(0)
            addr = size = stream = time_us = line = pool = action
            if kind == ENTRY:
                word = slot[sw.ACTION]
                if word & 15 == STR:
                    action = np.int64(text_word[word >> 4]) - sw.FIRST_ACTION
                    if action < 0 or action > 9:
                        action = np.int64(10)
                        own &= ~(1 << sw.ACTION)  # the name goes into the note
                else:
                    kind = CONTENTS
                place = sw.ADDR
                if slot[sw.ADDR] == 0 or (action == 8 and slot[sw.DEVICE_FREE] != 0):
                    place = sw.DEVICE_FREE
                addr = _whole(data, slot[place])
                size = _whole(data, slot[sw.SIZE])
                stream = _whole(data, slot[sw.STREAM])
                if slot[sw.TIME_US] != 0:
                    time_us = _whole(data, slot[sw.TIME_US])
                if addr < 0 or size < 0 or stream == BAD or time_us == BAD or trace < 0:
                    kind = CONTENTS
                word = slot[sw.POOL_ID]
                if word == 0:
                    pool = 0
                elif word == last_pool:
                    pool = last_pool_at
                else:
                    a = b = np.int64(BAD)
                    if word & 15 == PAIR:
                        a = word >> 34
                        b = (word >> 4) & 0x3FFFFFFF
                    elif word & 15 == TUPLE and arena[word >> 4] == 2:
                        a = _whole(data, arena[(word >> 4) + 1])
                        b = _whole(data, arena[(word >> 4) + 2])
                    if a == BAD or b == BAD:
                        kind = CONTENTS
                    else:
                        pool = 1 + find_pair(pools, pool_slots, used, POOLS, a, b, seed)
                        if pool <= 0 or pool > MAX_INDEX:
                            fault = COLLISIONS if pool <= 0 else TOO_MANY
                            break
                        last_pool = word
                        last_pool_at = pool
                if kind == ENTRY and stream != last_stream:
                    k = find_pair(streams, stream_slots, used, STREAMS, stream, 0, seed)
                    if k < 0 or k > MAX_INDEX:
                        fault = COLLISIONS if k < 0 else TOO_MANY
                        break
                    last_stream = stream
                    last_stream_at = k
            elif kind == FRAME:
                line = _line(data, slot[sw.LINE])
                file = slot[sw.FILENAME]
                name = slot[sw.NAME]
                if file & 15 == STR and name & 15 == STR and line != BAD:
                    used[FRAME_EXTRAS] += np.int64(sp - first > 6)
                    k = find_triple(
                        frames, frame_slots, used, FRAMES, file >> 4, line, name >> 4, seed
                    )
                    if k < 0:
                        fault = COLLISIONS
                        break
                    boxes[box] = k << 4 | FRAME
                else:
                    kind = CONTENTS

            note = 0
            if kind == ENTRY or kind == SEGMENT or kind == BLOCK:
                # Keys without a column of their own make up the note.
                start = used[NOTE_WORDS]
                top = start
                for k in range(first, sp, 2):
                    key = np.int64(text_word[stack[k] >> 4])
                    if key == 0 or key >= sw.FIRST_ACTION or own & (1 << key) == 0:
                        note_words[top] = stack[k]
                        note_words[top + 1] = stack[k + 1]
                        top += 2
                for k in range(start + 1, top, 2):
                    word = note_words[k]
                    if word & 15 == LIST:
                        run_ = _as_run(
                            boxes, arena, runs, run_items, run_mixed, run_slots, used, seed,
                            word >> 4,
                        )  # fmt: skip
                        if run_ == -2:
                            fault = COLLISIONS
                            break
                        if run_ >= 0:
                            note_words[k] = run_ << 4 | RUN
                if fault != OK:
                    break
                if top > start:
                    # Mostly the same as the note before.
                    note = used[NOTES] - 1
                    same = note > 0 and notes[note] - notes[note - 1] == top - start
                    if same:
                        at = notes[note - 1]
                        for i in range(top - start):
                            if note_words[at + i] != note_words[start + i]:
                                same = False
                                break
                    if not same:
                        note = find_run(
                            note_words, notes, note_slots, used, NOTES, start, top, seed
                        )
                        if note < 0:
                            fault = COLLISIONS
                            break
                        if notes[note] == top:
                            used[NOTE_WORDS] = top

            if kind == ENTRY:
                k = used[ENTRIES]
                used[ENTRIES] = k + 1
                e_action[k] = action
                e_addr[k] = addr
                e_size[k] = size
                e_stream[k] = last_stream_at
                e_time[k] = time_us
                e_stack[k] = trace
                e_pool[k] = pool
                e_note[k] = note
                boxes[box] = k << 4 | ENTRY
            elif kind == BLOCK or kind == PAST:
                k = used[BLOCKS]
                used[BLOCKS] = k + 1
                for i in range(len(BLOCK_KEYS)):
                    blocks[k, i] = slot[_BLOCK_KEYS[i]]
                blocks[k, BLOCK_STACK] = trace
                blocks[k, BLOCK_NOTE] = note
                boxes[box] = k << 4 | kind
            elif kind == SEGMENT:
                k = used[SEGMENTS]
                used[SEGMENTS] = k + 1
                for i in range(len(SEGMENT_KEYS)):
                    segments[k, i] = slot[_SEGMENT_KEYS[i]]
                segments[k, SEGMENT_STACK] = trace
                segments[k, SEGMENT_NOTE] = note
                boxes[box] = k << 4 | SEGMENT
            elif kind == CONTENTS:
                _store(boxes, arena, used, box, stack, first, sp)
            sp = first
        elif code == op.SHORT_BINUNICODE or code == op.BINUNICODE or code == op.BINUNICODE8:
            if code == op.SHORT_BINUNICODE:
                n = np.int64(data[p + 1])
                p += 2
            elif code == op.BINUNICODE:
                n = u4(data, p + 1)
                p += 5
            else:
                n = i8(data, p + 1)
                p += 9
            # Most strings are old ones; looking them up here saves a call.
            place = hash_text(data, p, n, seed) & (len(text_slots) - 1)
            k = np.int64(text_slots[place]) - 1
            same = k >= 0 and text_len[k] == n
            if same:
                at = text_at[k]
                for i in range(n):
                    if data[at + i] != data[p + i]:
                        same = False
                        break
            if not same:
                k = find_text(
                    data, p, n, text_at, text_len, text_word, text_slots, used, TEXTS, words,
                    word_at, seed,
                )  # fmt: skip
                if k < 0:
                    fault = COLLISIONS
                    break
            stack[sp] = k << 4 | STR
            sp += 1
            p += n
        elif code == op.TUPLE2 or code == op.TUPLE1 or code == op.TUPLE3 or code == op.TUPLE:
            p += 1
            if code == op.TUPLE:
                n_marks -= 1
                first = marks[n_marks]
            else:
                first = sp - (code - op.TUPLE1 + 1)
            word = 0
            if sp - first == 2:
                a = stack[first]
                b = stack[first + 1]
                if (
                    a & 15 == INT
                    and b & 15 == INT
                    and 0 <= a >> 4 < 1 << 29
                    and 0 <= b >> 4 < 1 << 29
                ):
                    word = (a >> 4) << 34 | (b >> 4) << 4 | PAIR
            if word == 0:
                top = used[ARENA]
                word = top << 4 | TUPLE
                arena[top] = sp - first
                top += 1
                for k in range(first, sp):
                    arena[top] = stack[k]
                    top += 1
                used[ARENA] = top
            stack[first] = word
            sp = first + 1
        elif code == op.EMPTY_TUPLE:
            top = used[ARENA]
            arena[top] = 0
            used[ARENA] = top + 1
            stack[sp] = top << 4 | TUPLE
            sp += 1
            p += 1
        elif code == op.OP_STOP:
            here = stack[sp - 1]
            break
        else:  # whatever else the scan let through
            word, p = _rare(data, p, code)
            if word != 0:
                stack[sp] = word
                sp += 1
    # One way out: every return gives back every array, and each of those is compiled.
    return fault, here
