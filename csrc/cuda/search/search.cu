#include "cuda/search/scan.cuh"
#include "cuda/search/search.h"

namespace embstore::cuda {
namespace {

constexpr int64_t kGrowth = 32;  // how many times larger each sample is than the one before
constexpr int kQueryBytes = 90 << 10;

int sorted_at_once(int k) {
  int size = 2048;
  while (size < 2 * k) size *= 2;
  return size;
}

// The k best of each query's list, sorted by a bitonic network in a block's own memory: a full one first, then as many
// more as there is room for beside the k best so far. Bounds the next scan.
struct SelectTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 1;
  SearchRoom room;
  int count, k, size, steps;

  explicit SelectTask(const SearchCall& call)
      : room(call.room), count(call.count), k(call.k), size(sorted_at_once(call.k)), steps(0) {
    for (int run = 2; run <= size; run *= 2)
      for (int apart = run / 2; apart > 0; apart /= 2) ++steps;
  }
  int64_t blocks(const Target&) const { return count; }
  int64_t shared_bytes() const { return int64_t(size) * 8; }
  EMBSTORE_HD int phases(const Grid& grid) const { return rounds(grid) * (steps + 1) + 1; }

  EMBSTORE_HD void phase(int p, const Grid& grid, uint8_t* shared) const {
    auto* hits = reinterpret_cast<Hit*>(shared);
    const int round = p / (steps + 1), step = p % (steps + 1);
    if (round == rounds(grid)) return finish(grid, hits);
    if (step > 0) return exchange(step - 1, grid.thread, hits);
    const int64_t listed = offered(grid), from = round == 0 ? 0 : size + int64_t(round - 1) * (size - k);
    const Hit* list = room.lists + grid.block * room.capacity;
    for (int at = grid.thread + (round == 0 ? 0 : k); at < size; at += kThreads) {
      const int64_t place = from + at - (round == 0 ? 0 : k);
      hits[at] = place < listed ? list[place] : 0;
    }
  }

 private:
  EMBSTORE_HD int64_t offered(const Grid& grid) const {
    return smaller<int64_t>(room.counts[grid.block], room.capacity);
  }
  EMBSTORE_HD int rounds(const Grid& grid) const {
    const int64_t listed = offered(grid);
    return listed <= size ? 1 : 1 + int((listed - size + size - k - 1) / (size - k));
  }

  EMBSTORE_HD void exchange(int step, int thread, Hit* hits) const {
    int run = 2, apart = 1;
    for (; step > 0; --step) {
      apart /= 2;
      if (apart == 0) run *= 2, apart = run / 2;
    }
    for (int pair = thread; pair < size / 2; pair += kThreads) {
      const int low = pair / apart * apart * 2 + pair % apart, high = low + apart;
      const bool falling = (low & run) == 0;
      const Hit a = hits[low], b = hits[high];
      if (falling ? a < b : a > b) hits[low] = b, hits[high] = a;
    }
  }

  EMBSTORE_HD void finish(const Grid& grid, const Hit* hits) const {
    for (int at = grid.thread; at < k; at += kThreads) room.best[grid.block * k + at] = hits[at];
    if (grid.thread != kThreads - 1) return;
    room.lost[grid.block] = room.counts[grid.block] > room.capacity;
    room.floors[grid.block] = hits[k - 1];
  }
};

// Empties the lists before a scan; `floors`: bounds too.
struct ClearTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 1;
  SearchRoom room;
  int count;
  bool floors;

  int64_t blocks(const Target&) const { return 1; }
  int64_t shared_bytes() const { return 0; }
  EMBSTORE_HD int phases(const Grid&) const { return 1; }
  EMBSTORE_HD void phase(int, const Grid& grid, uint8_t*) const {
    for (int q = grid.thread; q < count; q += kThreads) {
      room.counts[q] = 0;
      if (floors) room.floors[q] = 0;
    }
  }
};

// The ids of the best; a row that is there in the place of none.
struct CandidatesTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 1;
  const Hit* best;
  int64_t n, nobody;
  int64_t* candidates;

  int64_t blocks(const Target&) const { return (n + kThreads - 1) / kThreads; }
  int64_t shared_bytes() const { return 0; }
  EMBSTORE_HD int phases(const Grid&) const { return 1; }
  EMBSTORE_HD void phase(int, const Grid& grid, uint8_t*) const {
    const int64_t i = grid.block * kThreads + grid.thread;
    if (i < n) candidates[i] = best[i] == 0 ? nobody : id_of(best[i]);
  }
};

// Scores `n` candidates from `first` on, `wanted` of each query, from their values. A thread has one: they are few.
struct RescoreTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 1;
  SearchCall call;
  int wanted;
  int64_t first, n;

  int64_t blocks(const Target&) const { return (n + kThreads - 1) / kThreads; }
  int64_t shared_bytes() const { return 0; }
  EMBSTORE_HD int phases(const Grid&) const { return 1; }
  EMBSTORE_HD void phase(int, const Grid& grid, uint8_t*) const {
    const int64_t i = grid.block * kThreads + grid.thread;
    if (i >= n || call.room.best[first + i] == 0) return;
    const int q = int((first + i) / wanted);
    const float *row = call.room.rows + i * call.dim, *query = call.queries + int64_t(q) * call.dim;
    // The sums of ScanTask, in its order.
    float sum = 0.0f, square = 0.0f, query_square = 0.0f;
    for (int j = 0; j < call.dim; ++j) {
      const float v = row[j], w = read(query + j), away = v - w;
      square = mul_add(v, v, square);
      query_square = mul_add(w, w, query_square);
      sum = call.metric == Metric::kL2 ? mul_add(away, away, sum) : mul_add(v, w, sum);
    }
    offer(call, q, call.room.candidates[first + i], final_score(call.metric, sum, root(square), root(query_square)));
  }
};

struct SquaresTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 1;
  const float* rows;
  int64_t n;
  int dim;
  float* squares;

  int64_t blocks(const Target&) const { return (n + kThreads - 1) / kThreads; }
  int64_t shared_bytes() const { return 0; }
  EMBSTORE_HD int phases(const Grid&) const { return 1; }
  EMBSTORE_HD void phase(int, const Grid& grid, uint8_t*) const {
    const int64_t i = grid.block * kThreads + grid.thread;
    if (i >= n) return;
    double sum = 0.0;
    for (int j = 0; j < dim; ++j) {
      const double v = rows[i * dim + j];
      sum += v * v;
    }
    squares[i] = float(sum);
  }
};

// Hits of a query among all parts: each goes behind as many as are larger. No two are the same.
struct MergeTask {
  static constexpr int kThreads = cuda::kThreads, kBlocks = 1;
  const Hit* hits;
  int parts, count, k;
  bool distances;
  float* scores;
  int64_t* ids;

  int64_t blocks(const Target&) const { return count; }
  int64_t shared_bytes() const { return 0; }
  EMBSTORE_HD int phases(const Grid&) const { return 2; }
  EMBSTORE_HD void phase(int p, const Grid& grid, uint8_t*) const {
    const int64_t out = grid.block * k;
    if (p == 0) {
      for (int i = grid.thread; i < k; i += kThreads) scores[out + i] = bits_float(0x7fc00000u), ids[out + i] = -1;
      return;
    }
    for (int64_t at = grid.thread; at < int64_t(parts) * k; at += kThreads) {
      const int part = int(at / k), i = int(at % k);
      const Hit hit = list(grid.block, part)[i];
      int64_t place = i;
      for (int other = 0; other < parts; ++other)
        if (other != part) place += larger(list(grid.block, other), hit);
      if (hit == 0 || place >= k) continue;
      scores[out + place] = distances ? -score_of(hit) : score_of(hit);
      ids[out + place] = id_of(hit);
    }
  }

 private:
  EMBSTORE_HD const Hit* list(int64_t query, int part) const { return hits + (int64_t(part) * count + query) * k; }
  // How many of a falling list are, found by halves.
  EMBSTORE_HD int larger(const Hit* falling, Hit than) const {
    int low = 0, high = k;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (falling[middle] > than)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
};

// Rows of floats in a scratch array.
struct DecodedRows : NoTable {
  static constexpr int kColumns = 4;
  const float* rows;
  int dim, align;

  DecodedRows(const float* at, int width) : rows(at), dim(width), align(alignment(at, int64_t(width) * 4)) {}
  EMBSTORE_HD const uint8_t* place(int64_t i) const { return reinterpret_cast<const uint8_t*>(rows + i * dim); }
  template <int V>
  EMBSTORE_HD Bytes<4 * V> fetch(const uint8_t* at, int j) const {
    return read_bytes<4 * V>(at + 4 * j, align);
  }
  template <int V>
  EMBSTORE_HD void decode(const Bytes<4 * V>& raw, const uint8_t*, int, float (&v)[V]) const {
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = bits_float(raw.words[k]);
  }
};

void scan(const Kernel& kernel, const SearchCall& call, const CodedQueries* coded, int64_t stride,
          const Target& target) {
  const int64_t n = (call.last - call.first + stride - 1) / stride;
  ScanCall whole{&call, call.first, stride, n};
  if (coded != nullptr) return kernel.scan_coded(whole, *coded, target);
  if (kernel.scan(whole, target)) return;
  for (int64_t at = 0; at < n; at += kDecoded) {
    LookupCall lookup;
    lookup.first = call.first + at * stride;
    lookup.stride = stride;
    lookup.n = smaller(kDecoded, n - at);
    lookup.out = call.room.rows;
    kernel.lookup(lookup, target);
    const ScanCall part{&call, lookup.first, stride, lookup.n};
    launch(ScanTask<DecodedRows>(DecodedRows(call.room.rows, call.dim), part, false), target);
  }
}

int64_t round_up(int64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

int most_queries(int dim) {
  const int most = kQueryBytes / 4 / ((dim + 15) / 16 * 16 + 1) / kGroup * kGroup;
  return smaller(most, 128);
}

int64_t list_capacity(int k) {
  int64_t capacity = 8192;
  while (capacity < 4 * kGrowth * k) capacity *= 2;
  return capacity;
}

int64_t room_bytes(int count, int k, int dim) {
  const int64_t q = count;
  return round_up(8 * q) + round_up(8 * q * list_capacity(k)) + 2 * round_up(8 * q * k) + 2 * round_up(4 * q) +
         round_up(kDecoded * dim * 4 + kPadding);
}

SearchRoom room_at(uint8_t* memory, int count, int k) {
  const int64_t q = count;
  SearchRoom room;
  room.capacity = list_capacity(k);
  room.floors = reinterpret_cast<Hit*>(memory);
  room.lists = reinterpret_cast<Hit*>(memory += round_up(8 * q));
  room.best = reinterpret_cast<Hit*>(memory += round_up(8 * q * room.capacity));
  room.counts = reinterpret_cast<uint32_t*>(memory += round_up(8 * q * k));
  room.lost = reinterpret_cast<uint32_t*>(memory += round_up(4 * q));
  room.candidates = reinterpret_cast<int64_t*>(memory += round_up(4 * q));
  room.rows = reinterpret_cast<float*>(memory += round_up(8 * q * k));
  return room;
}

void search(const Kernel& kernel, const SearchCall& call, const CodedQueries* coded, bool first, const Target& target) {
  bool begins = first;
  auto level = [&](int64_t stride) {
    launch(ClearTask{call.room, call.count, begins}, target);
    scan(kernel, call, coded, stride, target);
    launch(SelectTask(call), target);
    begins = false;
  };
  // A bound from a sample is one for the table too, also where a list had no room for all of it.
  const int64_t every = call.last - call.first;
  for (int64_t rows = call.room.capacity; first && rows < every; rows *= kGrowth) level((every + rows - 1) / rows);
  level(1);
}

void rescore(const Kernel& kernel, const SearchCall& call, int wanted, const Target& target) {
  const int64_t n = int64_t(call.count) * wanted;
  launch(CandidatesTask{call.room.best, n, call.first, call.room.candidates}, target);
  launch(ClearTask{call.room, call.count, true}, target);
  for (int64_t at = 0; at < n; at += kDecoded) {
    LookupCall lookup;
    lookup.ids = {call.room.candidates + at, true};
    lookup.n = smaller(kDecoded, n - at);
    lookup.out = call.room.rows;
    kernel.lookup(lookup, target);
    launch(RescoreTask{call, wanted, at, lookup.n}, target);
  }
  launch(SelectTask(call), target);
}

void squared_norms(const Kernel& kernel, int64_t first, int64_t last, int dim, float* rows, float* squares,
                   const Target& target) {
  for (int64_t at = first; at < last; at += kDecoded) {
    LookupCall lookup;
    lookup.first = at;
    lookup.n = smaller(kDecoded, last - at);
    lookup.out = rows;
    kernel.lookup(lookup, target);
    launch(SquaresTask{rows, lookup.n, dim, squares + at}, target);
  }
}

void merge(const Hit* hits, int parts, int count, int k, Metric metric, float* scores, int64_t* ids,
           const Target& target) {
  launch(MergeTask{hits, parts, count, k, metric == Metric::kL2, scores, ids}, target);
}

}  // namespace embstore::cuda
