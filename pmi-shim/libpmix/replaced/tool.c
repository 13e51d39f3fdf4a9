/* This is no tool: it follows no other server, and relays nothing to one. And a
 * client that no server started, which would become a job of one by itself, is an
 * error: that is the silent failure the bridge exists to end. */
#include "src/include/pmix_config.h"
#include "pmix_tool.h"
#include "src/include/pmix_globals.h"
#include "src/tool/pmix_tool_ops.h"

pmix_status_t pmix_tool_init_info(void)
{
    return PMIX_ERR_UNREACH;
}

pmix_status_t pmix_tool_relay_op(pmix_cmd_t cmd, pmix_peer_t *peer, pmix_buffer_t *bfr,
                                 uint32_t tag)
{
    PMIX_HIDE_UNUSED_PARAMS(cmd, peer, bfr, tag);
    return PMIX_ERR_NOT_SUPPORTED;
}

pmix_status_t PMIx_tool_attach_to_server(pmix_proc_t *proc, pmix_proc_t *server,
                                         pmix_info_t info[], size_t ninfo)
{
    PMIX_HIDE_UNUSED_PARAMS(proc, server, info, ninfo);
    return PMIX_ERR_NOT_SUPPORTED;
}

pmix_status_t PMIx_tool_set_server(const pmix_proc_t *server, pmix_info_t info[], size_t ninfo)
{
    PMIX_HIDE_UNUSED_PARAMS(server, info, ninfo);
    return PMIX_ERR_NOT_SUPPORTED;
}
