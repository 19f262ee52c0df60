// The loop of every search: tiles of scores, adjusted for the metric, held against the worst of the best so far.
#include <vector>

#include "core/search.h"
#include "search/_dot.h"

namespace embstore::EMBSTORE_ISA {
namespace {

// What turns inner products of one query into scores; see core/search.h. Rows count from the tile's first.
struct Terms {
  float constant;
  const float* scales;
  const float* biases;
  float one(float score, int64_t r) const {
    score += constant;
    if (scales != nullptr) score *= scales[r];
    if (biases != nullptr) score += biases[r];
    return score;
  }
#if defined(EMBSTORE_ISA_AVX512) || defined(EMBSTORE_ISA_AVX2)
  Floats many(Floats scores, int64_t r) const {
    scores = add(scores, set1(constant));
    if (scales != nullptr) scores = mul(scores, load(scales + r));
    if (biases != nullptr) scores = add(scores, load(biases + r));
    return scores;
  }
#endif
};

#if defined(EMBSTORE_ISA_AVX512)
inline unsigned at_least(Floats scores, float threshold) {
  return _mm512_cmp_ps_mask(scores, _mm512_set1_ps(threshold), _CMP_GE_OQ);
}
#elif defined(EMBSTORE_ISA_AVX2)
inline unsigned at_least(Floats scores, float threshold) {
  return unsigned(_mm256_movemask_ps(_mm256_cmp_ps(scores, _mm256_set1_ps(threshold), _CMP_GE_OQ)));
}
#endif

// Calls keep(r, score) for each score above the threshold, or equal to it: a heap settles ties. NaN is never kept.
template <class Keep>
inline void above(const float* products, int64_t n, const Terms& terms, const float& threshold, Keep keep) {
  int64_t r = 0;
#if defined(EMBSTORE_ISA_AVX512) || defined(EMBSTORE_ISA_AVX2)
  for (; r + Width <= n; r += Width) {
    const Floats scores = terms.many(load(products + r), r);
    unsigned hits = at_least(scores, threshold);
    if (hits == 0) continue;
    float found[Width];
    store(found, scores);
    for (; hits != 0; hits &= hits - 1) keep(r + __builtin_ctz(hits), found[__builtin_ctz(hits)]);
  }
#endif
  for (; r < n; ++r) {
    const float score = terms.one(products[r], r);
    if (score >= threshold) keep(r, score);
  }
}

void scan_rows(const Scan& scan, int64_t first, int64_t last, TopK& best) {
  const bool bounds = scan.scorer->bounds();
  std::vector<float> tile(size_t(scan.queries * kTileRows));
  while (first < last) {
    const int64_t shard_end = (first / scan.rows_per_shard + 1) * scan.rows_per_shard;
    const int64_t count = std::min(std::min(kTileRows, last - first), shard_end - first);
    scan.scorer->score(*scan.prepared, first, count, tile.data());
    for (int64_t q = 0; q < scan.queries; ++q) {
      const Terms terms{scan.constants == nullptr ? 0.0f : scan.constants[q],
                        scan.scales == nullptr ? nullptr : scan.scales + first,
                        scan.biases == nullptr ? nullptr : scan.biases + first};
      const float floor = scan.floors->of(q);
      float threshold = std::max(best.threshold(q), floor);
      above(tile.data() + q * kTileRows, count, terms, threshold, [&](int64_t r, float score) {
        if (scan.allowed != nullptr && scan.allowed[first + r] == 0) return;
        if (bounds) score = terms.one(scan.scorer->refine(*scan.prepared, q, first + r), r);
        if (!(score >= threshold)) return;
        best.push(q, score, first + r);
        threshold = std::max(best.threshold(q), floor);
      });
      if (threshold > floor) scan.floors->raise(q, threshold);
    }
    first += count;
  }
}

const bool registered = register_scan(EMBSTORE_STRING(EMBSTORE_ISA), scan_rows);

}  // namespace
}  // namespace embstore::EMBSTORE_ISA
