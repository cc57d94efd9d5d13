#!/usr/bin/python3
"""GNU Radio's side of scripts/bench-radio: the chain out of its own blocks.

    gnuradio_chain.py FILE cf32|ci16 RATE    (RATE 0: as fast as it goes)
"""

import sys

from gnuradio import blocks, fft, gr
from gnuradio.fft import window

SIZE, AVERAGE = 1024, 10


def main() -> None:
    path, form, rate = sys.argv[1], sys.argv[2], float(sys.argv[3])
    graph = gr.top_block("spectrum")
    if form == "cf32":
        chain = [blocks.file_source(gr.sizeof_gr_complex, path, False)]
    else:
        chain = [blocks.file_source(gr.sizeof_short, path, False), blocks.interleaved_short_to_complex(False, False, 32768)]
    if rate > 0:
        chain.append(blocks.throttle(gr.sizeof_gr_complex, rate))
    chain += [
        blocks.stream_to_vector(gr.sizeof_gr_complex, SIZE),
        fft.fft_vcc(SIZE, True, window.hann(SIZE), True, 1),
        blocks.complex_to_mag_squared(SIZE),
        blocks.integrate_ff(AVERAGE, SIZE),
        blocks.multiply_const_vff([1 / AVERAGE] * SIZE),
        blocks.null_sink(gr.sizeof_float * SIZE),
    ]
    graph.connect(*chain)
    graph.run()


if __name__ == "__main__":
    main()
