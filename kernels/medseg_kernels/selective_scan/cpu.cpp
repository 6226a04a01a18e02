// The selective scan on CPUs. Maths and notation: README.md; names as in reference.py.
//
// B batch, R traversals, N tokens, C channels, S scan state, G groups, H heads. rate = A, write = B, read = C, skip = D.
// One vector holds LANES channels; the state of those channels is S vectors. A block is a run of up to LANES channels that
// share head and groups. Tokens are visited through `order`, so no traversal ever copies the volume.
// Traversals that share an output run one after the other, or into parts of their own that are then added up in the same
// order: every sum has one order. Only segments round otherwise, so that results depend on the number of threads in the
// last digits where there are fewer blocks than threads, and nowhere in the forward else.

#include <omp.h>

#include <algorithm>
#include <cstdint>

#include "cpu_backward.hpp"
#include "cpu_forward.hpp"

extern "C" void selective_scan_forward(const Scan *scan) {
  const Scan &p = *scan;
  const auto blocks = make_blocks(p);
  if (p.concat || p.parts) forward_traversals(p, blocks, 0, p.R);
  else for (int64_t r = 0; r < p.R; ++r) forward_traversals(p, blocks, r, r + 1);
  if (p.parts) add_parts(p);
}

extern "C" void selective_scan_backward(const Scan *scan) {
  const Scan &p = *scan;
  const auto blocks = make_blocks(p);
  for (int64_t r = 0; r < p.R; ++r) {
    Turns turns(p.B * p.workers, p.K);
    // monotonic: a worker never waits for one that nobody has started
#pragma omp parallel for num_threads(p.threads) schedule(monotonic : dynamic, 1)
    for (int64_t item = 0; item < p.B * p.workers; ++item) {
      FlushDenormals flush;
      const int64_t b = item / p.workers, worker = item % p.workers;
      if (p.S == 16) backward_blocks<16>(p, blocks, b, r, worker, turns);
      else if (p.S == 8) backward_blocks<8>(p, blocks, b, r, worker, turns);
      else backward_blocks<0>(p, blocks, b, r, worker, turns);
    }
  }
}
