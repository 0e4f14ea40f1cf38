"""What to run where, and how to read the sheet."""

TEXT = """\
WHAT TO RUN WHERE
On any machine, with the recording and optuna:
    tightfit verify TRACE --plan -o OUT        writes OUT/TRACE.plan.json: the default, expandable
                                               segments and the line that tune names
On the machine with the GPU, with torch, numba, numpy and scipy (no network, nothing installed):
    tightfit verify TRACE -o OUT --budget 480  takes the plan from OUT; stop it and call it again
                                               as often as you like: what is done is not done again
    python3 CHECKOUT/experiments/gpu/run.py verify TRACE -o OUT --budget 480
                                               the same without installing; any folder name will do
Without a GPU, to see that everything works:
    tightfit verify TRACE --stand-in h100-80g  the real PyTorch and its real allocator over a
                                               stand-in for CUDA; the sheet says so in its verdict
Without either, V0 alone is checked:
    tightfit verify TRACE --torch 2.11.0       asks the compiled parser of the release, if
                                               tightfit prove has fetched it, else our reading of it

WHAT IS CHECKED
V0   The simulator's parser and PyTorch's own accept the line.
V1   The recorded program's requests, byte for byte, stream for stream and in order, go through the
     real caching allocator in a fresh process. Every event and the final state must be in the
     segment and at the offset predicted; nothing may differ.
V2   The same three times without history: all counters of torch.cuda.memory_stats must be equal in
     the three processes and to the prediction, and the memory that the device says is gone must be
     what the allocator says it holds, to 32 MiB or 1 %.
V2b  The smallest share of the device (set_per_process_memory_fraction) with which the program
     completes, in steps of 2 MiB, must be the predicted one.
V3   tightfit verify --program 'python train.py' runs your own program: once under the default to
     record it, then 6 times each (the first not counted, in the order ABBA) under the default, the
     best line, the runner-up and the worst of a dozen, and once under each of the others. Peaks
     must be within 1 % or 20 MiB of the prediction, 80 % of the promised saving must be there,
     Kendall's tau at least 0.9, and the step no slower than 1 % (95 % bootstrap interval).
Until torch 2.11 the lowest address of equal free blocks is taken, and only the driver knows it.
There each process records its history, and the simulation is told the addresses before the two are
compared; the sheet says how far the prediction went without.
No kernel runs in V1 to V2b: they check the allocator, the driver's memory and nothing else.

HOW TO READ THE SHEET
confirmed      all of it holds, exactly.
bytes only     the peaks of reserved, allocated, active and requested bytes are as predicted and the
               smallest limit is within 20 MiB, but something else differs: where blocks lie, calls
               of the driver, counters. The sheet names the first difference.
not confirmed  the line was refused, a process died, or bytes differ. Do not use the prediction.
unfinished     the budget was spent; the same command goes on.
OUT/TRACE.sheet.md is for people, OUT/TRACE.sheet.json has every figure, and the recordings of V1
lie beside them: tightfit check reads them.
"""
