/* No topology. Looking at the hardware with hwloc takes longer than all the rest
 * of a start, and every MPI that asks for a topology and gets none looks by
 * itself. What would have to be packed or shown never exists here. */
#include "src/hwloc/pmix_hwloc.h"

pmix_status_t pmix_hwloc_register(void)
{
    return PMIX_SUCCESS;
}

void pmix_hwloc_finalize(void)
{
}

pmix_status_t pmix_hwloc_setup_topology(pmix_info_t *info, size_t ninfo)
{
    PMIX_HIDE_UNUSED_PARAMS(info, ninfo);
    return PMIX_SUCCESS;
}

pmix_status_t pmix_hwloc_load_topology(pmix_topology_t *topo)
{
    PMIX_HIDE_UNUSED_PARAMS(topo);
    return PMIX_ERR_NOT_SUPPORTED;
}

pmix_status_t pmix_hwloc_generate_cpuset_string(const pmix_cpuset_t *cpuset, char **cpuset_string)
{
    PMIX_HIDE_UNUSED_PARAMS(cpuset);
    *cpuset_string = NULL;
    return PMIX_ERR_NOT_SUPPORTED;
}

pmix_status_t pmix_hwloc_parse_cpuset_string(const char *cpuset_string, pmix_cpuset_t *cpuset)
{
    PMIX_HIDE_UNUSED_PARAMS(cpuset_string, cpuset);
    return PMIX_ERR_NOT_SUPPORTED;
}

pmix_status_t pmix_hwloc_generate_locality_string(const pmix_cpuset_t *cpuset, char **loc)
{
    PMIX_HIDE_UNUSED_PARAMS(cpuset);
    *loc = NULL;
    return PMIX_ERR_NOT_SUPPORTED;
}

pmix_status_t pmix_hwloc_get_relative_locality(const char *locality1, const char *locality2,
                                               pmix_locality_t *loc)
{
    PMIX_HIDE_UNUSED_PARAMS(locality1, locality2);
    *loc = PMIX_LOCALITY_UNKNOWN;
    return PMIX_ERR_NOT_SUPPORTED;
}

pmix_status_t pmix_hwloc_get_cpuset(pmix_cpuset_t *cpuset, pmix_bind_envelope_t ref)
{
    PMIX_HIDE_UNUSED_PARAMS(cpuset, ref);
    return PMIX_ERR_NOT_SUPPORTED;
}

pmix_status_t pmix_hwloc_compute_distances(pmix_topology_t *topo, pmix_cpuset_t *cpuset,
                                           pmix_info_t info[], size_t ninfo,
                                           pmix_device_distance_t **dist, size_t *ndist)
{
    PMIX_HIDE_UNUSED_PARAMS(topo, cpuset, info, ninfo);
    *dist = NULL;
    *ndist = 0;
    return PMIX_ERR_NOT_SUPPORTED;
}

pmix_status_t pmix_hwloc_pack_cpuset(pmix_buffer_t *buf, pmix_cpuset_t *src,
                                     pmix_pointer_array_t *regtypes)
{
    PMIX_HIDE_UNUSED_PARAMS(buf, src, regtypes);
    return PMIX_ERR_NOT_SUPPORTED;
}

pmix_status_t pmix_hwloc_unpack_cpuset(pmix_buffer_t *buf, pmix_cpuset_t *dest,
                                       pmix_pointer_array_t *regtypes)
{
    PMIX_HIDE_UNUSED_PARAMS(buf, dest, regtypes);
    return PMIX_ERR_NOT_SUPPORTED;
}

pmix_status_t pmix_hwloc_copy_cpuset(pmix_cpuset_t *dest, pmix_cpuset_t *src)
{
    PMIX_HIDE_UNUSED_PARAMS(dest, src);
    return PMIX_ERR_NOT_SUPPORTED;
}

char *pmix_hwloc_print_cpuset(pmix_cpuset_t *src)
{
    PMIX_HIDE_UNUSED_PARAMS(src);
    return NULL;
}

void pmix_hwloc_destruct_cpuset(pmix_cpuset_t *cpuset)
{
    PMIX_HIDE_UNUSED_PARAMS(cpuset);
}

void pmix_hwloc_release_cpuset(pmix_cpuset_t *ptr, size_t sz)
{
    PMIX_HIDE_UNUSED_PARAMS(ptr, sz);
}

pmix_status_t pmix_hwloc_get_cpuset_size(pmix_cpuset_t *ptr, size_t *sz)
{
    PMIX_HIDE_UNUSED_PARAMS(ptr);
    *sz = 0;
    return PMIX_SUCCESS;
}

pmix_status_t pmix_hwloc_pack_topology(pmix_buffer_t *buf, pmix_topology_t *src,
                                       pmix_pointer_array_t *regtypes)
{
    PMIX_HIDE_UNUSED_PARAMS(buf, src, regtypes);
    return PMIX_ERR_NOT_SUPPORTED;
}

pmix_status_t pmix_hwloc_unpack_topology(pmix_buffer_t *buf, pmix_topology_t *dest,
                                         pmix_pointer_array_t *regtypes)
{
    PMIX_HIDE_UNUSED_PARAMS(buf, dest, regtypes);
    return PMIX_ERR_NOT_SUPPORTED;
}

pmix_status_t pmix_hwloc_copy_topology(pmix_topology_t *dest, pmix_topology_t *src)
{
    PMIX_HIDE_UNUSED_PARAMS(dest, src);
    return PMIX_ERR_NOT_SUPPORTED;
}

char *pmix_hwloc_print_topology(pmix_topology_t *src)
{
    PMIX_HIDE_UNUSED_PARAMS(src);
    return NULL;
}

void pmix_hwloc_destruct_topology(pmix_topology_t *ptr)
{
    PMIX_HIDE_UNUSED_PARAMS(ptr);
}

void pmix_hwloc_release_topology(pmix_topology_t *ptr, size_t sz)
{
    PMIX_HIDE_UNUSED_PARAMS(ptr, sz);
}

pmix_status_t pmix_hwloc_get_topology_size(pmix_topology_t *ptr, size_t *sz)
{
    PMIX_HIDE_UNUSED_PARAMS(ptr);
    *sz = 0;
    return PMIX_SUCCESS;
}
