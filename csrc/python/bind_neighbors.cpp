#if defined(__linux__)
#include <malloc.h>
#endif

#include <string>

#include "arrays.hpp"
#include "clear/neighbors.hpp"

namespace clear::python {

namespace {

Metric metric_named(std::string const& name) {
    if (name == "euclidean") return Metric::euclidean;
    if (name == "cosine") return Metric::cosine;
    require(name == "inner_product", "metric is ", name, ": want euclidean, cosine or inner_product");
    return Metric::inner_product;
}

}  // namespace

void bind_neighbors(py::module_& module) {
    py::class_<NeighborIndex>(module, "NeighborIndex")
        .def(py::init([](py::array base, std::string const& storage, Array<Index> rows, Array<Index> labels,
                         Index n_classes, std::string const& metric, bool lists) {
                 auto const base_view = stored_rows(base, storage, "base");
                 auto const row_span = vector(rows, "rows");
                 auto const label_span = vector(labels, "labels");
                 py::gil_scoped_release release;
                 return NeighborIndex(base_view, row_span, label_span, n_classes, metric_named(metric), lists);
             }),
             py::arg("base"), py::arg("storage"), py::arg("rows").noconvert(), py::arg("labels").noconvert(),
             py::arg("n_classes"), py::arg("metric"), py::arg("lists"), py::keep_alive<1, 2>())
        .def(
            "search",
            [](NeighborIndex const& index, Array<float> queries, Array<Index> exclude, Array<Index> within, int threads,
               Array<double> distances, Array<Index> indices) {
                auto const query_view = matrix(queries, "queries");
                auto const exclude_span = vector(exclude, "exclude");
                auto const within_span = vector(within, "within");
                auto const to_distances = output_matrix(distances, query_view.rows);
                auto const to_indices = output_matrix(indices, query_view.rows);
                py::gil_scoped_release release;
                index.search(query_view, exclude_span, within_span, threads, to_distances, to_indices);
            },
            py::arg("queries").noconvert(), py::arg("exclude").noconvert(), py::arg("within").noconvert(),
            py::arg("threads"), py::arg("distances").noconvert(), py::arg("indices").noconvert())
        .def(
            "search_by_class",
            [](NeighborIndex const& index, Array<float> queries, Array<Index> exclude, Array<Index> without, Index k,
               int threads, Array<double> distances, Array<Index> indices) {
                auto const query_view = matrix(queries, "queries");
                auto const exclude_span = vector(exclude, "exclude");
                auto const without_span = vector(without, "without");
                auto const to_distances = output_matrix(distances, query_view.rows);
                auto const to_indices = output_matrix(indices, query_view.rows);
                py::gil_scoped_release release;
                index.search_by_class(query_view, exclude_span, without_span, k, threads, to_distances, to_indices);
            },
            py::arg("queries").noconvert(), py::arg("exclude").noconvert(), py::arg("without").noconvert(),
            py::arg("k"), py::arg("threads"), py::arg("distances").noconvert(), py::arg("indices").noconvert())
        .def(
            "search_lists",
            [](NeighborIndex const& index, Array<float> queries, Array<Index> exclude, Array<Index> group,
               Array<Index> probes, int threads, Array<double> distances, Array<Index> indices) {
                auto const query_view = matrix(queries, "queries");
                auto const exclude_span = vector(exclude, "exclude");
                auto const group_span = vector(group, "group");
                auto const probe_view = matrix(probes, "probes");
                auto const to_distances = output_matrix(distances, query_view.rows);
                auto const to_indices = output_matrix(indices, query_view.rows);
                py::gil_scoped_release release;
                index.search_lists(query_view, exclude_span, group_span, probe_view, threads, to_distances, to_indices);
            },
            py::arg("queries").noconvert(), py::arg("exclude").noconvert(), py::arg("group").noconvert(),
            py::arg("probes").noconvert(), py::arg("threads"), py::arg("distances").noconvert(),
            py::arg("indices").noconvert())
        .def(
            "subset",
            [](NeighborIndex const& index, Array<std::uint8_t> found) {
                auto const span = vector(found, "found");
                py::gil_scoped_release release;
                return index.subset(span);
            },
            py::arg("found").noconvert(), py::keep_alive<0, 1>())
        .def_property_readonly("dimension", &NeighborIndex::dimension)
        .def_property_readonly("n_classes", &NeighborIndex::n_classes)
        .def("class_size", &NeighborIndex::class_size, py::arg("label"));
    // Freed memory goes back to the system: a search in tiles must not pile it up.
    module.def("release_memory", [] {
#if defined(__GLIBC__)
        malloc_trim(0);
#endif
    });
    module.def(
        "measure_candidates",
        [](Array<float> queries, py::array base, std::string const& storage, std::string const& metric,
           Array<Index> candidates, int threads, Array<double> distances) {
            auto const query_view = matrix(queries, "queries");
            auto const base_view = stored_rows(base, storage, "base");
            auto const candidate_view = matrix(candidates, "candidates");
            auto const to = output_matrix(distances, query_view.rows);
            py::gil_scoped_release release;
            measure_candidates(query_view, base_view, metric_named(metric), candidate_view, threads, to);
        },
        py::arg("queries").noconvert(), py::arg("base"), py::arg("storage"), py::arg("metric"),
        py::arg("candidates").noconvert(), py::arg("threads"), py::arg("distances").noconvert());
}

}  // namespace clear::python
