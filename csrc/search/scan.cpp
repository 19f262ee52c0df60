// The loop of every search: tiles of scores, adjusted for the metric, held against the worst of the best so far.
#include <vector>

#include "core/search.h"
#include "core/simd.h"

namespace embstore::EMBSTORE_ISA {
namespace {

// Calls keep(r) for each score above the threshold, or equal to it: a heap settles ties.
template <class Keep>
inline void above(const float* scores, int64_t n, const float* threshold, Keep keep) {
  int64_t r = 0;
#if defined(EMBSTORE_ISA_AVX512)
  for (; r + 16 <= n; r += 16) {
    __mmask16 hits = _mm512_cmp_ps_mask(_mm512_loadu_ps(scores + r), _mm512_set1_ps(*threshold), _CMP_GE_OQ);
    for (; hits != 0; hits = __mmask16(hits & (hits - 1))) keep(r + __builtin_ctz(hits));
  }
#elif defined(EMBSTORE_ISA_AVX2)
  for (; r + 8 <= n; r += 8) {
    int hits = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(scores + r), _mm256_set1_ps(*threshold), _CMP_GE_OQ));
    for (; hits != 0; hits &= hits - 1) keep(r + __builtin_ctz(unsigned(hits)));
  }
#endif
  for (; r < n; ++r)
    if (scores[r] >= *threshold) keep(r);
}

void adjust(const Scan& scan, int64_t q, int64_t first, int64_t count, float* scores) {
  const float constant = scan.constants == nullptr ? 0.0f : scan.constants[q];
  if (constant != 0.0f)
    for (int64_t r = 0; r < count; ++r) scores[r] += constant;
  if (scan.scales != nullptr)
    for (int64_t r = 0; r < count; ++r) scores[r] *= scan.scales[first + r];
  if (scan.biases != nullptr)
    for (int64_t r = 0; r < count; ++r) scores[r] += scan.biases[first + r];
}

void scan_rows(const Scan& scan, int64_t first, int64_t last, TopK& best) {
  std::vector<float> tile(size_t(scan.queries * kTileRows));
  while (first < last) {
    const int64_t shard_end = (first / scan.rows_per_shard + 1) * scan.rows_per_shard;
    const int64_t count = std::min(std::min(kTileRows, last - first), shard_end - first);
    scan.scorer->score(*scan.prepared, first, count, tile.data());
    for (int64_t q = 0; q < scan.queries; ++q) {
      float* scores = tile.data() + q * kTileRows;
      adjust(scan, q, first, count, scores);
      float threshold = best.threshold(q);
      above(scores, count, &threshold, [&](int64_t r) {
        if (scan.allowed != nullptr && scan.allowed[first + r] == 0) return;
        best.push(q, scores[r], first + r);
        threshold = best.threshold(q);
      });
    }
    first += count;
  }
}

const bool registered = register_scan(EMBSTORE_NAME(EMBSTORE_ISA), scan_rows);

}  // namespace
}  // namespace embstore::EMBSTORE_ISA
