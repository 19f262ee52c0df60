// Python's side of the key index: takes mapped files, turns Python keys into views, names the error.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "keys/key_index.h"

namespace nb = nanobind;
namespace ek = embstore::keys;

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using MutableBytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Below this many keys a lookup is over before another thread could make use of the lock.
constexpr size_t kReleaseAbove = 64;

[[noreturn]] void Raise(const char* name, const std::string& message) {
  nb::object type = nb::module_::import_("embstore.errors").attr(name);
  PyErr_SetString(type.ptr(), message.c_str());
  throw nb::python_error();
}

std::string TypeName(PyObject* object) { return Py_TYPE(object)->tp_name; }

// UTF-8 of strings that are not ASCII. Python could keep it in the string, but then a lookup would grow the
// caller's.
class Arena {
 public:
  char* Take(size_t size) {
    if (size > left_) {
      const size_t block = size > kBlock ? size : kBlock;
      blocks_.emplace_back(new char[block]);
      next_ = blocks_.back().get();
      left_ = block;
    }
    char* result = next_;
    next_ += size;
    left_ -= size;
    return result;
  }
  void GiveBack(size_t size) {
    next_ -= size;
    left_ += size;
  }

 private:
  static constexpr size_t kBlock = size_t{1} << 16;
  std::vector<std::unique_ptr<char[]>> blocks_;
  char* next_ = nullptr;
  size_t left_ = 0;
};

ek::Text TextOf(PyObject* object, Arena* arena) {
  if (PyUnicode_IS_COMPACT_ASCII(object)) {
    return ek::Text{static_cast<const char*>(PyUnicode_DATA(object)),
                    static_cast<uint64_t>(PyUnicode_GET_LENGTH(object))};
  }
  const size_t n = static_cast<size_t>(PyUnicode_GET_LENGTH(object));
  const int kind = PyUnicode_KIND(object);
  const size_t room = n * (kind == PyUnicode_1BYTE_KIND ? 2 : kind == PyUnicode_2BYTE_KIND ? 3 : 4);
  char* out = arena->Take(room);
  uint64_t size;
  if (kind == PyUnicode_1BYTE_KIND) {
    size = ek::EncodeUtf8(PyUnicode_1BYTE_DATA(object), n, out);
  } else if (kind == PyUnicode_2BYTE_KIND) {
    size = ek::EncodeUtf8(PyUnicode_2BYTE_DATA(object), n, out);
  } else {
    size = ek::EncodeUtf8(PyUnicode_4BYTE_DATA(object), n, out);
  }
  arena->GiveBack(room - (size == ek::Text::kNotText ? 0 : static_cast<size_t>(size)));
  return ek::Text{out, size};
}

class KeyIndex {
 public:
  // `where` is the key of a string table's offsets (unused for ints) and values inside `file`.
  KeyIndex(Bytes index, Bytes file, bool text, uint64_t count, uint64_t capacity, uint64_t seed, uint64_t offsets_at,
           uint64_t values_at, uint64_t values_size, std::string name)
      : index_(std::move(index)), file_(std::move(file)), text_(text), capacity_(capacity), name_(std::move(name)) {
    const uint64_t index_size = index_.size(), file_size = file_.size();
    const auto base = reinterpret_cast<uintptr_t>(file_.data());
    bool good = capacity >= 2 && (capacity & (capacity - 1)) == 0 && capacity <= (uint64_t{1} << 41) &&
                index_size == ek::kHeaderBytes + 8 * capacity && count < capacity &&
                reinterpret_cast<uintptr_t>(index_.data()) % 8 == 0;
    if (count == 0) {
      offsets_at = values_at = values_size = 0;
    } else {
      good = good && values_at <= file_size && values_size <= file_size - values_at;
      if (text) {
        good = good && offsets_at <= file_size && (file_size - offsets_at) / 8 >= count + 1 &&
               (base + offsets_at) % 8 == 0;
      } else {
        good = good && values_size / 8 >= count && (base + values_at) % 8 == 0;
      }
    }
    if (!good) Fail("sizes that do not fit together");
    slots_ = reinterpret_cast<const uint64_t*>(index_.data() + ek::kHeaderBytes);
    texts_ = ek::TextKeys{reinterpret_cast<const int64_t*>(file_.data() + offsets_at),
                          reinterpret_cast<const char*>(file_.data()) + values_at, values_size, count, seed};
    ints_ = ek::IntKeys{reinterpret_cast<const int64_t*>(file_.data() + values_at), count, seed};
  }

  int64_t FindOne(nb::handle key) const {
    int64_t out = -1;
    PyObject* object = key.ptr();
    if (text_) {
      if (!PyUnicode_Check(object)) RefuseType(object, -1);
      Arena arena;
      const ek::Text text = TextOf(object, &arena);
      Raised(ek::Find(texts_, slots_, capacity_, &text, 1, -1, &out));
    } else {
      int64_t value;
      if (IntOf(object, -1, &value)) Raised(ek::Find(ints_, slots_, capacity_, &value, 1, -1, &out));
    }
    return out;
  }

  void FindList(nb::handle keys, int64_t missing, Out out) const {
    // A tuple of our own: another thread may change the list while the lock is released.
    nb::object held;
    if (PyList_Check(keys.ptr())) {
      held = nb::steal(PyList_AsTuple(keys.ptr()));
      if (!held.is_valid()) throw nb::python_error();
    } else if (PyTuple_Check(keys.ptr())) {
      held = nb::borrow(keys);
    } else {
      throw nb::type_error("keys must be a list or a tuple");
    }
    const size_t n = static_cast<size_t>(PyTuple_GET_SIZE(held.ptr()));
    if (n != out.size()) throw nb::value_error("the list of keys changed its length during the lookup");
    text_ ? FindTexts(held.ptr(), n, missing, out.data()) : FindInts(held.ptr(), n, missing, out.data());
  }

  void FindPacked(Ints offsets, Bytes values, int64_t missing, Out out) const {
    const size_t n = out.size();
    if (!text_) Raise("IdTypeError", name_ + " has int64 keys, found strings; pass integers");
    if (offsets.size() != n + 1) throw nb::value_error("offsets must be one longer than out");
    std::vector<ek::Text> texts(n);
    const char* base = reinterpret_cast<const char*>(values.data());
    for (size_t i = 0; i < n; ++i) {
      const int64_t begin = offsets.data()[i], end = offsets.data()[i + 1];
      if (begin < 0 || begin > end || static_cast<uint64_t>(end) > values.size()) {
        Raise("ShapeError", "the Arrow array of keys must have rising offsets inside its values, found " +
                                std::to_string(begin) + " to " + std::to_string(end) + " at key " + std::to_string(i) +
                                "; make the array again");
      }
      texts[i] = ek::Text{base + begin, static_cast<uint64_t>(end - begin)};
    }
    Raised(Run(texts_, texts.data(), n, missing, out.data()));
  }

  void FindInt64(Ints keys, int64_t missing, Out out) const {
    if (text_) Raise("IdTypeError", name_ + " has string keys, found integers; pass strings, or look up by row id");
    if (keys.size() != out.size()) throw nb::value_error("out must be as long as keys");
    Raised(Run(ints_, keys.data(), out.size(), missing, out.data()));
  }

  nb::object Key(uint64_t row) const {
    if (row >= texts_.count) throw nb::index_error("row out of range");
    if (!text_) return nb::steal(PyLong_FromLongLong(ints_.values[row]));
    ek::Text text{};
    if (!texts_.Get(row, &text)) Raised(ek::Result{ek::Fault::kOffsets, row, 0, 0});
    PyObject* result = PyUnicode_DecodeUTF8(text.data, static_cast<Py_ssize_t>(text.size), "strict");
    if (result == nullptr) {
      if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) throw nb::python_error();
      PyErr_Clear();
      Raised(ek::Result{ek::Fault::kUtf8, row, 0, 0});
    }
    return nb::steal(result);
  }

  nb::list Range(uint64_t begin, uint64_t end) const {
    nb::list result;
    for (uint64_t row = begin; row < end; ++row) result.append(Key(row));
    return result;
  }

  nb::list Take(Ints rows) const {
    nb::list result;
    for (size_t i = 0; i < rows.size(); ++i) result.append(Key(static_cast<uint64_t>(rows.data()[i])));
    return result;
  }

  // (first row, second row, shadowed keys); both rows are 0 unless a key was met twice.
  nb::tuple Insert(MutableBytes index, uint64_t begin, uint64_t end, bool last) const {
    if (index.size() != index_.size() || index.data() != index_.data() || end > texts_.count)
      throw nb::value_error("insert needs the array this index was made with, and rows below its count");
    auto* slots = reinterpret_cast<uint64_t*>(index.data() + ek::kHeaderBytes);
    ek::Result result;
    {
      nb::gil_scoped_release unlocked;
      result = text_ ? ek::Insert(texts_, slots, capacity_, begin, end, last)
                     : ek::Insert(ints_, slots, capacity_, begin, end, last);
    }
    if (result.fault != ek::Fault::kDuplicate) Raised(result);
    return nb::make_tuple(result.row, result.other, result.shadowed);
  }

  uint64_t Check(uint64_t begin, uint64_t end, bool last) const {
    if (end > texts_.count) throw nb::value_error("rows must be below the count");
    ek::Result result;
    {
      nb::gil_scoped_release unlocked;
      result = text_ ? ek::Check(texts_, slots_, capacity_, begin, end, last)
                     : ek::Check(ints_, slots_, capacity_, begin, end, last);
    }
    Raised(result);
    return result.shadowed;
  }

  uint64_t Occupied() const {
    nb::gil_scoped_release unlocked;
    return ek::Occupied(slots_, 0, capacity_);
  }

 private:
  template <typename Keys>
  ek::Result Run(const Keys& keys, const typename Keys::Query* queries, size_t n, int64_t missing, int64_t* out) const {
    if (n <= kReleaseAbove) return ek::Find(keys, slots_, capacity_, queries, n, missing, out);
    nb::gil_scoped_release unlocked;
    return ek::Find(keys, slots_, capacity_, queries, n, missing, out);
  }

  void FindTexts(PyObject* tuple, size_t n, int64_t missing, int64_t* out) const {
    Arena arena;
    std::vector<ek::Text> texts(n);
    for (size_t i = 0; i < n; ++i) {
      if (i + 8 < n) __builtin_prefetch(PyTuple_GET_ITEM(tuple, i + 8));
      PyObject* object = PyTuple_GET_ITEM(tuple, i);
      if (!PyUnicode_Check(object)) RefuseType(object, static_cast<int64_t>(i));
      texts[i] = TextOf(object, &arena);
    }
    Raised(Run(texts_, texts.data(), n, missing, out));
  }

  void FindInts(PyObject* tuple, size_t n, int64_t missing, int64_t* out) const {
    std::vector<int64_t> values(n);
    std::vector<size_t> impossible;
    for (size_t i = 0; i < n; ++i) {
      if (!IntOf(PyTuple_GET_ITEM(tuple, i), static_cast<int64_t>(i), &values[i])) impossible.push_back(i);
    }
    Raised(Run(ints_, values.data(), n, missing, out));
    for (size_t i : impossible) out[i] = missing;
  }

  // False when the integer is beyond 64 bits, so that no table can hold it.
  bool IntOf(PyObject* object, int64_t at, int64_t* out) const {
    *out = 0;
    if (PyBool_Check(object) || !PyIndex_Check(object)) RefuseType(object, at);
    nb::object number = nb::steal(PyNumber_Index(object));
    if (!number.is_valid()) throw nb::python_error();
    int overflow = 0;
    *out = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
    if (overflow != 0) *out = 0;
    return overflow == 0;
  }

  [[noreturn]] void RefuseType(PyObject* object, int64_t at) const {
    Raise("IdTypeError", name_ + (text_ ? " has string keys, found " : " has int64 keys, found ") + TypeName(object) +
                             (at < 0 ? "" : " at position " + std::to_string(at)) +
                             (text_ ? "; pass str, or look up by row id" : "; pass integers"));
  }

  [[noreturn]] void Fail(const std::string& found) const {
    Raise("CorruptionError", name_ + " should hold a whole index over its keys, found " + found +
                                 "; restore the files from a copy or compress the table again");
  }

  void Raised(const ek::Result& result) const {
    if (result.fault == ek::Fault::kNone) return;
    const std::string row = std::to_string(result.row), count = std::to_string(texts_.count);
    switch (result.fault) {
      case ek::Fault::kRow:
        Fail("slot " + row + " naming a row beyond the " + count + " keys");
      case ek::Fault::kOffsets:
        Fail("the offsets of key " + row + " out of order or beyond the " + std::to_string(texts_.values_size) +
             " bytes of text");
      case ek::Fault::kFull:
        Fail("no free slot, though at most 7 in 10 may be used");
      case ek::Fault::kUtf8:
        Fail("key " + row + " that is not UTF-8");
      case ek::Fault::kLost:
        Fail("key " + row +
             (result.other == UINT64_MAX ? " that the index does not find"
                                         : " that the index finds at row " + std::to_string(result.other)));
      default:
        Fail("an inconsistency at key " + row);
    }
  }

  Bytes index_, file_;
  bool text_;
  uint64_t capacity_;
  std::string name_;
  const uint64_t* slots_ = nullptr;
  ek::TextKeys texts_{};
  ek::IntKeys ints_{};
};

// The first string that is not UTF-8, or -1; offsets out of order count as such.
int64_t FirstNotUtf8(Ints offsets, Bytes values) {
  nb::gil_scoped_release unlocked;
  for (size_t i = 0; i + 1 < offsets.size(); ++i) {
    const int64_t begin = offsets.data()[i], end = offsets.data()[i + 1];
    if (begin < 0 || begin > end || static_cast<uint64_t>(end) > values.size() ||
        !ek::ValidUtf8(reinterpret_cast<const char*>(values.data()) + begin, static_cast<uint64_t>(end - begin)))
      return static_cast<int64_t>(i);
  }
  return -1;
}

}  // namespace

void bind_keys(nb::module_& m) {
  nb::class_<KeyIndex>(m, "KeyIndex")
      .def(nb::init<Bytes, Bytes, bool, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, std::string>(),
           nb::arg("index"), nb::arg("file"), nb::arg("text"), nb::arg("count"), nb::arg("capacity"), nb::arg("seed"),
           nb::arg("offsets_at"), nb::arg("values_at"), nb::arg("values_size"), nb::arg("name"))
      .def("find", &KeyIndex::FindOne, nb::arg("key").none())
      .def("find_list", &KeyIndex::FindList, nb::arg("keys"), nb::arg("missing"), nb::arg("out"))
      .def("find_packed", &KeyIndex::FindPacked, nb::arg("offsets"), nb::arg("values"), nb::arg("missing"),
           nb::arg("out"))
      .def("find_int64", &KeyIndex::FindInt64, nb::arg("keys"), nb::arg("missing"), nb::arg("out"))
      .def("key", &KeyIndex::Key, nb::arg("row"))
      .def("range", &KeyIndex::Range, nb::arg("begin"), nb::arg("end"))
      .def("take", &KeyIndex::Take, nb::arg("rows"))
      .def("insert", &KeyIndex::Insert, nb::arg("index").noconvert(), nb::arg("begin"), nb::arg("end"), nb::arg("last"))
      .def("check", &KeyIndex::Check, nb::arg("begin"), nb::arg("end"), nb::arg("last"))
      .def("occupied", &KeyIndex::Occupied);
  m.def("first_not_utf8", &FirstNotUtf8, nb::arg("offsets"), nb::arg("values"));
}
