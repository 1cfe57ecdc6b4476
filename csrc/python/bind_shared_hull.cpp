#include "arrays.hpp"
#include "clear/shared_hull.hpp"

namespace clear::python {

void bind_shared_hull(py::module_& module) {
    py::class_<SharedHull>(module, "SharedHull")
        .def(py::init([](Array<float> vertices) {
                 auto const view = matrix(vertices, "vertices");
                 py::gil_scoped_release release;
                 return SharedHull(view);
             }),
             py::arg("vertices").noconvert(), py::keep_alive<1, 2>())
        .def(
            "solve",
            [](SharedHull const& hull, Array<float> points, Array<double> eps, bool decide, double relative_tolerance,
               bool certificates, int threads) {
                SharedHullProblems const problems{matrix(points, "points"), vector(eps, "eps")};
                Index const m = problems.points.rows;
                Index const d = certificates ? hull.dimension() : 0;
                Array<std::int8_t> status(m);
                Array<double> lower(m), upper(m), used_eps(m), directions({m, d});
                Array<Index> first(m), count(m);
                SharedHullResults results{output_vector(status),
                                          output_vector(lower),
                                          output_vector(upper),
                                          output_vector(used_eps),
                                          output_vector(first),
                                          output_vector(count),
                                          {directions.mutable_data(), m, d, d},
                                          {},
                                          {}};
                HullOptions const options{decide ? HullMode::decide : HullMode::distance, relative_tolerance};
                {
                    py::gil_scoped_release release;
                    auto const hear_signals = [] {
                        py::gil_scoped_acquire acquire;
                        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
                    };
                    hull.solve(problems, options, threads, hear_signals, results);
                }
                Array<Index> members(static_cast<Index>(results.members.size()), results.members.data());
                Array<double> weights(static_cast<Index>(results.weights.size()), results.weights.data());
                return py::make_tuple(status, lower, upper, used_eps, directions, first, count, members, weights);
            },
            py::arg("points").noconvert(), py::arg("eps").noconvert(), py::arg("decide"), py::arg("relative_tolerance"),
            py::arg("certificates"), py::arg("threads"))
        .def_property_readonly("radius", &SharedHull::radius)
        .def_property_readonly("dimension", &SharedHull::dimension)
        .def("__len__", &SharedHull::size);
}

}  // namespace clear::python
