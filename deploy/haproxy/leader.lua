-- Chooses the node for each new connection, and holds the connection until there is one, for 2 s at most.
-- HAProxy's own rules would look again only when a wait ends.

-- The node that users are on, if it is known, and when somebody looked last, in milliseconds.
local current, looked = nil, 0

local function look(txn)
    local function is_up(name) return name and txn.sf:srv_is_up("role/" .. name) == "1" end
    -- All users stay on one node while it is up, also if another one answers 200 as well.
    if is_up(current) then return end
    local leader = txn:get_var("proc.leader")
    for name, server in pairs(core.backends.role.servers) do
        -- A server that was not checked yet is up, too. The last one that passed may have lost a check since.
        if is_up(name) and (name == leader or server:get_stats().check_status:find("L4OK")) then
            current = name
            return
        end
    end
    -- The old process after a reload counts no server as up.
    if txn.sf:stopping() ~= "1" then current = nil end
end

core.register_action("find_leader", { "tcp-req" }, function(txn)
    for try = 1, 100 do
        local now = core.now()
        now = now.sec * 1000 + now.usec / 1000
        -- Those who wait look together: with a look each, a crowd would keep all processors busy.
        if try == 1 or now - looked >= 20 then
            look(txn)
            looked = now
        end
        if current then return txn:set_var("txn.node", current) end
        core.msleep(20)
    end
end)
